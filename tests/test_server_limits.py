"""What a live server does with clients that send too much, too slowly or too often."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
import pytest

from llm4sbr.serving.server.run import most_connections
from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import toy_export

TIMEOUT = 0.8
MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = toy_export(tmp_path_factory.mktemp("export"))
    with live_server(folder, "--watch", "0", "--timeout", str(TIMEOUT), "--connections", "2500") as running:
        yield running


def connect(server: LiveServer, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    client.sendall(sent)
    return client


def response(client: socket.socket) -> tuple[int, dict]:
    """Status and JSON of what comes until the server closes; what is sent on then meets a reset."""
    text = b""
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            text += part
    head, _, body = text.partition(b"\r\n\r\n")
    return int(head[9:12]), json.loads(body)


def memory(server: LiveServer) -> float:
    """MiB resident in the server's process."""
    return psutil.Process(server.process.pid).memory_info().rss / MIB


def answers(server: LiveServer) -> bool:
    return server.ask("/recommend", {"session": [3], "k": 1}).json["items"][0]["id"] == 4


# Too much


def post(length: str) -> bytes:
    return f"POST /recommend HTTP/1.1\r\nHost: x\r\n{length}\r\nConnection: close\r\n\r\n".encode()


def test_a_body_of_100_megabytes(server):
    before = memory(server)
    with connect(server, post(f"Content-Length: {100 * MIB}")) as client:
        assert response(client)[0] == 413
    found = server.ask("/recommend", bytes(100 * MIB))  # a client that sends all of it gets the answer, too
    assert (found.status, found.json) == (413, {"error": "the body is larger than 2,097,152 bytes"})
    assert memory(server) - before < 30
    assert answers(server)


def test_one_long_text_among_many_short_ones(server):
    """numpy would make all of them as long as the longest: 1 TB out of 2 MB, or whatever the machine has."""
    texts = ["a" * MIB] + [""] * 250_000
    tensor = {"name": "items", "datatype": "INT64", "shape": [1, len(texts)], "data": texts}
    found = server.ask("/v2/models/llm4sbr/infer", {"inputs": [tensor]})
    assert (found.status, "other values than INT64" in found.json["error"]) == (400, True)


def test_a_body_without_a_length(server):
    before = memory(server)
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    with connect(server, post("Transfer-Encoding: chunked")) as client, suppress(ConnectionError):
        client.sendall(chunk * 1600)  # what comes behind the answer is dropped, until time is up
    assert memory(server) - before < 30
    with connect(server, post("Transfer-Encoding: chunked")) as client:
        client.sendall(chunk * 100)  # the answer arrives though the connection is to be closed
        assert response(client)[0] == 413
    assert answers(server)


def test_large_bodies_at_once_are_held_to_a_budget(tmp_path):
    size = 2 * MIB - 1024
    with live_server(toy_export(tmp_path), "--watch", "0", "--timeout", "20") as server, ExitStack() as open_:
        before = memory(server)
        clients = [open_.enter_context(connect(server, post(f"Content-Length: {size}"))) for _ in range(80)]
        for client in clients:
            client.setblocking(False)
        left = dict.fromkeys(clients, size - 1)  # the last byte never comes
        deadline = time.monotonic() + 20
        while any(left.values()) and time.monotonic() < deadline:
            for client, rest in left.items():
                if rest:
                    try:
                        left[client] -= client.send(bytes(min(rest, 65536)))
                    except BlockingIOError:
                        continue
                    except OSError:
                        left[client] = 0
        refused: set[socket.socket] = set()
        while len(refused) < 40 and time.monotonic() < deadline:
            time.sleep(0.05)
            refused |= {client for client in clients if _peek(client).startswith(b"HTTP/1.1 503")}
        assert 40 <= len(refused) < 60  # the others' bodies, 2 MiB each, are within 64 MiB
        assert memory(server) - before < 64 + 60
        assert answers(server)


def _peek(client: socket.socket) -> bytes:
    try:
        return client.recv(100)
    except OSError:
        return b""


def test_headers_without_an_end(server):
    with connect(server, b"GET / HTTP/1.1\r\n" + b"X-Filler: " + b"a" * 8000 + b"\r\n") as client:
        for _ in range(8):
            try:
                client.sendall(b"X-Filler: " + b"a" * 8000 + b"\r\n")
            except OSError:
                break
            time.sleep(0.01)
        assert response(client) == (431, {"error": "the headers are larger than 32,768 bytes"})
    assert answers(server)


@pytest.mark.parametrize(
    "text", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTQ/1.1\r\n\r\n", b"nonsense\r\n\r\n"]
)
def test_what_is_not_http(server, text):
    with connect(server, text) as client:
        status, body = response(client)
    assert (status, list(body)) == (400, ["error"])


# Too slowly


def drip(client: socket.socket, times: int) -> None:
    """Send a byte every quarter of a second, while the server takes them."""
    for _ in range(times):
        time.sleep(0.25)
        try:
            client.sendall(b"X")
        except OSError:
            return


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"GET /v2/health/live HTTP/1.1\r\n", "the headers did not come within 0.8 seconds"),
        (b"GET /v2/health/live HTTP/1.1\r\nX", "the headers did not come within 0.8 seconds"),
        (post("Content-Length: 300") + b"{", "the body did not come within 0.8 seconds"),
    ],
)
@pytest.mark.parametrize("first", [b"", b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_bytes_that_keep_coming_do_not_buy_time(server, first, sent, message):
    with connect(server, first) as client:
        while first and not client.recv(1000).endswith(b"}"):
            pass
        client.sendall(sent)
        started = time.monotonic()
        dripping = threading.Thread(target=drip, args=(client, 40))
        dripping.start()
        assert response(client) == (408, {"error": message})
        assert time.monotonic() - started < 4 * TIMEOUT
        with suppress(OSError):  # a byte that came after the answer may have reset the connection
            client.shutdown(socket.SHUT_RDWR)
        dripping.join()


@pytest.mark.parametrize("first", [b"", b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_headers_that_stop_coming(server, first):
    with connect(server, first) as client:
        while first and not client.recv(1000).endswith(b"}"):
            pass
        client.sendall(b"GET / HTTP/1.1\r\nHo")
        assert response(client)[0] == 408


def test_a_client_that_does_not_read(server):
    before = memory(server)
    request = b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(server) as client, pytest.raises(ConnectionError):
        client.sendall(request * 1_000_000)
    assert memory(server) - before < 60
    assert answers(server)


def test_two_thousand_slow_connections(server):
    before = memory(server)
    count = most_connections(2000)  # raises this process's limit, too
    assert count >= 500
    with ExitStack() as open_:
        for number in range(count):
            sent = (b"", b"P", b"GET / HTTP/1.1\r\nHost: x\r\n", post("Content-Length: 90"))[number % 4]
            open_.enter_context(connect(server, sent))
        assert answers(server)
        assert memory(server) - before < 100
    assert answers(server)


def test_connections_are_limited(tmp_path):
    folder = toy_export(tmp_path)
    with (
        live_server(folder, "--connections", "20", "--timeout", str(TIMEOUT)) as server,
        ExitStack() as open_,
    ):
        for _ in range(20):
            open_.enter_context(connect(server))
        with connect(server) as client:
            assert response(client) == (503, {"error": "too many connections; try again"})
        time.sleep(TIMEOUT + 0.5)  # idle ones have been closed
        assert answers(server)


# Too often


def test_a_full_queue_answers_429(tmp_path):
    options = ("--queue", "1", "--max-batch", "1", "--watch", "0")
    with live_server(toy_export(tmp_path), *options) as server:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda _: server.ask("/recommend", {"session": [3], "k": 1}), range(300)))
        assert {one.status for one in found} == {200, 429}
        refused = next(one for one in found if one.status == 429)
        assert refused.headers["retry-after"] == "1"
        assert "waiting already; try again" in refused.json["error"]
        assert all(one.json["items"][0]["id"] == 4 for one in found if one.status == 200)


def test_connections_are_no_more_than_there_are_files():
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
from llm4sbr.serving.server.run import most_connections
print(most_connections(4096), most_connections(100), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["236", "100", "300", "300"]
