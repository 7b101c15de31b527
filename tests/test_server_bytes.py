"""Every byte of a request counts, and what HTTP allows beside head and body takes neither memory nor time."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import toy_export

MIB = 2**20
TIMEOUT = 1.5
BODY = b'{"session": [3], "k": 1}'
CHUNKED = b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = toy_export(tmp_path_factory.mktemp("export"))
    with live_server(folder, "--watch", "0", "--timeout", str(TIMEOUT)) as running:
        yield running


def connect(server: LiveServer, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with suppress(ConnectionError):
        client.sendall(sent)
    return client


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes, or resets the connection."""
    found = b""
    with suppress(ConnectionError):
        while part := client.recv(65536):
            found += part
    return found


def status(client: socket.socket) -> tuple[int, dict]:
    head, _, body = everything(client).partition(b"\r\n\r\n")
    return int(head[9:12]), json.loads(body)


def memory(server: LiveServer) -> float:
    return psutil.Process(server.process.pid).memory_info().rss / MIB


def head(size: int, *, last: bytes = b"Connection: close") -> bytes:
    start = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n" + last + b"\r\nX: "
    return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("size", [32_768, 32_769, 33_000, 60_000, 120_000])
def test_a_head_is_as_long_as_allowed_however_it_comes(server: LiveServer, size: int) -> None:
    expected = 200 if size <= 32_768 else 431
    with connect(server, head(size)) as client:
        assert status(client)[0] == expected
    with connect(server) as client:
        for start in range(0, size, 7_001):
            with suppress(ConnectionError):
                client.sendall(head(size)[start : start + 7_001])
            time.sleep(0.005)
        assert status(client)[0] == expected
    before = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    with connect(server, before + head(size)) as client:  # behind another request, in the same bytes
        found = everything(client)
        assert found.count(b"HTTP/1.1 %d" % expected) == (2 if expected == 200 else 1)


def test_heads_that_come_byte_by_byte_and_behind_blank_lines(server: LiveServer) -> None:
    with connect(server) as client:
        for byte in b"\r\n\r\n" + head(120):
            client.sendall(bytes([byte]))
        assert status(client) == (200, {"live": True})


BESIDE = {
    "blank lines": b"\r\n" * (MIB // 2),
    "extensions": CHUNKED + b"5;" + b"a=b;" * MIB + b"\r\nhello\r\n0\r\n\r\n",
    "many extensions": CHUNKED + b"1;a=%s\r\nx\r\n" % (b"b" * 1000) * 4000,
    "tiny chunks": CHUNKED + b"1\r\nx\r\n" * MIB,
    "zeros": CHUNKED + b"0" * 4 * MIB + b"5\r\nhello\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"0\r\n" + b"a: b\r\n" * MIB + b"\r\n",
    "one trailer": CHUNKED + b"0\r\na: " + b"b" * 6 * MIB + b"\r\n\r\n",
    "header names": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a" * 8 * MIB,
    "headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * MIB,
    "path": b"GET /" + b"a" * 8 * MIB,
    "method": b"G" * 8 * MIB,
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_comes_beside_head_and_body_is_bounded(server: LiveServer, what: str) -> None:
    before, spent = memory(server), psutil.Process(server.process.pid).cpu_times().user
    with connect(server, BESIDE[what] * 3) as client:
        found = everything(client)
    assert found[9:12] in (b"400", b"408", b"413", b"431")  # 408 where the machine is busy
    assert memory(server) - before < 30
    assert psutil.Process(server.process.pid).cpu_times().user - spent < 3
    assert server.ask("/recommend", {"session": [3], "k": 1}).json["items"][0]["id"] == 4


def test_a_few_trailers_and_extensions_are_allowed(server: LiveServer) -> None:
    sent = CHUNKED + b"%x;a=b\r\n%b\r\n0\r\nX-Sum: 1\r\nHost: other\r\n\r\n" % (len(BODY), BODY)
    with connect(server, sent + head(90)) as client:
        found = everything(client)
    assert found.count(b"HTTP/1.1 200") == 2
    tiny = CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    with connect(server, tiny + head(90)) as client:
        assert everything(client).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("late", [False, True])
def test_413_arrives_while_the_body_is_still_sent(server: LiveServer, close: bytes, late: bool) -> None:
    length = 5 * MIB
    first = b"POST /recommend HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (close, length)
    with connect(server, first) as client:
        if late:
            time.sleep(0.3)  # the answer is there before the body
        client.sendall(bytes(length))
        client.sendall(b"" if close else head(90))
        found = everything(client)
    assert found[9:12] == b"413"
    assert found.count(b"HTTP/1.1") == (1 if close else 2)


@pytest.mark.parametrize(
    "offer",
    ["Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings", "upgrade: websocket\r\nConnection: upgrade"],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_that_offers_an_upgrade_keeps_its_body(server: LiveServer, offer: str, framing: str) -> None:
    start = f"POST /recommend HTTP/1.1\r\nHost: x\r\n{offer}\r\nHTTP2-Settings: AAMAAABk\r\n".encode()
    if framing == "length":
        sent = start + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    else:
        sent = start + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    with connect(server, sent + sent + head(90)) as client:
        found = everything(client)
    assert found.count(b"HTTP/1.1 200") == 3
    assert found.count(b'"id":4') >= 2
    with connect(server) as client:
        for start_at in range(0, len(sent), 9):
            client.sendall(sent[start_at : start_at + 9])
            time.sleep(0.002)
        client.sendall(head(90))
        assert everything(client).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "identity", "chunked, chunked", "chunked, gzip"])
def test_a_transfer_coding_that_is_not_understood_is_refused(server: LiveServer, coding: str) -> None:
    sent = f"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n".encode()
    with connect(server, sent + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)) as client:
        client.shutdown(socket.SHUT_WR)
        code, said = status(client)
    assert code in (400, 501)
    assert "error" in said


def test_hosts_are_checked_where_asked(tmp_path) -> None:
    with live_server(toy_export(tmp_path), "--allowed-hosts", "shop.example,[::1]", "--watch", "0") as server:
        for name in ("shop.example", "Shop.Example:8000", "shop.example.", "[::1]:80"):
            assert server.ask("/v2/health/live", headers={"Host": name}).status == 200
        for name in ("other.example", "shop.example.other", "", "127.0.0.1", "x\u00e9"):
            refused = server.ask("/recommend", {"session": [3]}, headers={"Host": name})
            assert refused.status == 421
            assert "not one of those" in refused.json["error"]
        with connect(server, b"GET / HTTP/1.0\r\n\r\n") as client:
            assert status(client)[0] == 421
