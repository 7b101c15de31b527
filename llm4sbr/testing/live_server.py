"""Starts `llm4sbr serve` in its own process, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

STARTUP = 60.0
"""Maximum seconds to wait for a line of the server's log."""


class Response(NamedTuple):
    """A complete response."""

    status: int
    headers: dict[str, str]
    """Lower-case names."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class LiveServer:
    """A running `llm4sbr serve`, created by `live_server`.

    Attributes:
        process: the server's process.
        events: the lines that it has logged so far, as dictionaries.
        port: its port on 127.0.0.1.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for("listening")["url"].rsplit(":", 1)[1])

    def wait_for(self, event: str, *, count: int = 1) -> dict[str, Any]:
        """Wait for the `count`-th log line with this event and return it; raises `TimeoutError`."""
        deadline = time.monotonic() + STARTUP
        with self._news:
            while True:
                found = [one for one in self.events if one.get("event") == event]
                if len(found) >= count:
                    return found[count - 1]
                ended = not self._reader.is_alive()
                if ended or not self._news.wait(max(deadline - time.monotonic(), 0)):
                    raise TimeoutError(f"no {event!r} in the server's log: {self.events}")

    def ask(
        self,
        path: str,
        body: object = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Send one request on a new connection; a body that is not bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method or ("GET" if data is None else "POST"), path, data, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, names, response.read())
        finally:
            connection.close()

    def stop(self) -> int:
        """Stop the server with SIGTERM; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STARTUP)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                found = json.loads(line)
            except ValueError:
                found = {"event": "not JSON", "line": line.rstrip()}
            with self._news:
                self.events.append(found)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


@contextmanager
def live_server(folder: Path | str, *options: str, ready: bool = True) -> Iterator[LiveServer]:
    """Serve an export folder on a free port; the server is stopped at the end of the block.

    Args:
        folder: as `llm4sbr serve` takes it, alone or as NAME=FOLDER.
        options: further arguments of `llm4sbr serve`.
        ready: whether to wait until the model is loaded.
    """
    command = [sys.executable, "-m", "llm4sbr", "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        server = LiveServer(process)
        if ready:
            server.wait_for("model ready")
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STARTUP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stderr is not None:
            process.stderr.close()
