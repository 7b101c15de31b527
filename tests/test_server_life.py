"""How a server starts and stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import psutil
import pytest

from llm4sbr.serving.server.app import App
from llm4sbr.serving.server.metrics import Metrics
from llm4sbr.serving.server.models import Models
from llm4sbr.serving.server.served import Served
from llm4sbr.serving.server.settings import Settings
from llm4sbr.testing.live_server import live_server
from llm4sbr.testing.toy_export import toy_export

START = [sys.executable, "-m", "llm4sbr", "serve"]


# Starting


def test_neither_torch_nor_transformers_is_needed(tmp_path):
    blocked = (
        "import sys; sys.modules.update(torch=None, transformers=None); from llm4sbr.cli import main; main()"
    )
    command = [sys.executable, "-c", blocked, "serve", str(toy_export(tmp_path)), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        port = int(json.loads(process.stderr.readline())["url"].rsplit(":", 1)[1])
        assert json.loads(process.stderr.readline())["event"] == "model ready"
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/recommend", json.dumps({"session": ["rde lamp (1990)"], "k": 1}))
        assert json.loads(connection.getresponse().read())["items"][0]["id"] == 2
        connection.close()
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def test_serving_imports_neither_torch_nor_transformers(tmp_path):
    code = f"""
import sys
from pathlib import Path
import llm4sbr.cli, llm4sbr.serving.server.run
from llm4sbr.serving.server.models import Model
Model.open(Path({str(toy_export(tmp_path))!r}), threads=1, max_batch=2).lookup.titles.prepare()
sys.exit(" ".join({{"torch", "transformers", "pandas", "pyarrow"}} & sys.modules.keys()) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_catalogue_of_100_000_items_is_served_within_two_seconds(tmp_path):
    with live_server(toy_export(tmp_path, items=100_000, step=7)) as server:
        spent = psutil.Process(server.process.pid).cpu_times()  # the clock would count what else runs here
        assert spent.user + spent.system < 2
        assert server.ask("/recommend", {"session": [99_999], "k": 1}).json["items"][0]["id"] == 6


def test_it_listens_on_this_machine_only_unless_told(tmp_path):
    with live_server(toy_export(tmp_path)) as server:
        assert server.wait_for("listening")["url"].startswith("http://127.0.0.1:")
        sockets = psutil.Process(server.process.pid).net_connections("inet")
        listening = {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}


def test_not_ready_before_the_model_is_warm(tmp_path):
    settings, metrics = Settings(), Metrics()
    app = App(Served({"llm4sbr": Models(toy_export(tmp_path), settings, metrics)}), settings, metrics)

    def status(path: str, method: str = "GET", body: bytes = b"") -> int:
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": path, "method": method, "headers": [], "query_string": b""}
        asyncio.run(app(scope, receive, send))
        return sent[0]["status"]

    assert status("/v2/health/live") == 200
    assert status("/v2/health/ready") == 503
    assert status("/v2/models/llm4sbr/ready") == 503
    assert status("/recommend", "POST", b'{"session": [1]}') == 503
    asyncio.run(app.served.answering[0].load())
    assert status("/v2/health/ready") == 200
    assert status("/v2/models/llm4sbr/ready") == 200


def test_an_address_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        folder = str(toy_export(tmp_path))
        done = subprocess.run([*START, folder, "--port", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line == f"error: 127.0.0.1:{port}: Address already in use; choose another --host or --port"


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_open_requests_are_answered_and_new_ones_refused(tmp_path, number):
    body = b'{"session": [3], "k": 1}'
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with live_server(toy_export(tmp_path)) as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address, timeout=20) as half, socket.create_connection(address) as idle:
            half.sendall(head + body[:10])
            idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            answered = b""
            while not answered.endswith(b'{"live":true}'):
                answered += idle.recv(1000)
            os.kill(server.process.pid, number)
            server.wait_for("draining")
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(address, timeout=5).close()
                except ConnectionRefusedError:
                    break
                time.sleep(0.02)
            else:
                pytest.fail("new connections are still taken")
            assert idle.recv(1000) == b""  # closed, as nothing is under way on it
            half.sendall(body[10:])
            text = b""
            while part := half.recv(65536):
                text += part
        assert text.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in text
        assert json.loads(text.partition(b"\r\n\r\n")[2])["items"][0]["id"] == 4
        assert server.process.wait(20) == 0
        assert [one["event"] for one in server.events][-2:] == ["draining", "stopped"]


def test_a_request_that_never_ends_does_not_hold_up_the_stop(tmp_path):
    options = ("--drain", "1", "--timeout", "60")
    with live_server(toy_export(tmp_path), *options) as server, socket.socket() as stuck:
        stuck.connect(("127.0.0.1", server.port))
        stuck.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(0.2)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
        told = stuck.recv(65536)
        assert told.startswith(b"HTTP/1.1 503")
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"].startswith("the server stopped")
    assert not [one for one in server.events if "traceback" in one]


def test_the_log_is_json(tmp_path):
    with live_server(toy_export(tmp_path), "--access-log") as server:
        server.ask("/recommend", {"session": ['"\n']})
        server.stop()
    assert [one["event"] for one in server.events] == [
        "listening",
        "model ready",
        "request",
        "draining",
        "stopped",
    ]
    request = server.events[2]
    assert (request["method"], request["path"], request["status"]) == ("POST", "/recommend", 200)
    assert request["ms"] > 0
    assert all({"time", "level", "event"} <= one.keys() for one in server.events)
