"""A server in a process of its own, as an operator starts it."""

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
"""Seconds to wait for something that the server will log."""


class Response(NamedTuple):
    """A response that has been read."""

    status: int
    headers: dict[str, str]
    """Lower-case names."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class LiveServer:
    """A running `llm4sbr serve`; made by `live_server`.

    Attributes:
        process: the server's.
        events: what it has logged so far, one dictionary per line.
        port: on 127.0.0.1.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for("listening")["url"].rsplit(":", 1)[1])

    def wait_for(self, event: str, *, count: int = 1) -> dict[str, Any]:
        """The log line that has this event for the `count`-th time; `TimeoutError` if it does not come."""
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
        """Send one request on a connection of its own; a body that is not bytes goes as JSON."""
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
        """End it with SIGTERM; its exit code."""
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
def live_server(folder: Path, *options: str, ready: bool = True) -> Iterator[LiveServer]:
    """A server of an export folder on a free port, stopped at the end.

    Args:
        folder: as `llm4sbr serve` takes it.
        options: further options of `llm4sbr serve`.
        ready: wait until the model answers.
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
