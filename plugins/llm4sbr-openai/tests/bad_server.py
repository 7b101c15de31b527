"""A real local HTTP server that speaks chat completions and misbehaves on purpose."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "sk-very-secret"


class Server(ThreadingHTTPServer):
    """Answers `You said PROMPT` unless `behave` does something else first."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[str] = []
        self.models: list[str] = []
        self.keys: set[str] = set()
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.behave: Callable[[Handler, str, int], bool] = lambda handler, prompt, times: False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.seen.append(prompt)
            self.server.keys.add(self.headers["Authorization"])
            self.server.busy += 1
            self.server.most = max(self.server.most, self.server.busy)
            times = self.server.seen.count(prompt)
        try:
            if not self.server.behave(self, prompt, times):
                self.say(200, answer(f"You said {prompt}"))
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def do_GET(self) -> None:
        if self.server.models:
            self.say(200, {"object": "list", "data": [{"id": one} for one in self.server.models]})
        else:
            self.say(404, {})

    def say(self, status: int, content: object, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def answer(text: object) -> dict[str, object]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }  # fmt: skip
