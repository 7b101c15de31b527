"""A model hub of one's own: what huggingface_hub asks for, on loopback and in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "c" * 40


class Hub:
    """What it has, and what it was asked with."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        """Repository -> name -> content."""
        self.created: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.hub.keys.add(self.headers.get("authorization"))
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size) if size else self._chunks()
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            told = json.loads(body)
            self.hub.created.append(told)
            repo = "/".join(filter(None, (told.get("organization"), told["name"])))
            self.hub.files.setdefault(repo, {})
            return self._json({"url": f"{self.hub.url}/{repo}"})
        repo, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
        if rest:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        repo, _, rest = path.removeprefix("/api/models/").partition("/commit/")
        if rest:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.files[repo][line["value"]["path"]] = content
            return self._json({"commitOid": COMMIT, "commitUrl": f"{self.hub.url}/{repo}/commit/{COMMIT}"})
        return self._json({"valid": True}) if path == "/api/validate-yaml" else self._json({}, 404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo = "/".join(parts[2:4])
            files = self.hub.files.get(repo)
            if files is None:
                return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            siblings = [{"rfilename": name, "size": len(data)} for name, data in sorted(files.items())]
            return self._json({"id": repo, "sha": COMMIT, "siblings": siblings})
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        data = self.hub.files.get(repo, {}).get(name)
        if data is None:
            return self._json({}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._answer(data, 200, headers)

    do_HEAD = do_GET

    def _chunks(self) -> bytes:
        parts = []
        while self.headers.get("transfer-encoding") and (size := int(self.rfile.readline(), 16)):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(
            json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {})
        )

    def _answer(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub() -> Iterator[Hub]:
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Handler,), {"hub": found}))
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
