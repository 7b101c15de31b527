"""Clients that use a connection in ways that HTTP allows and few do."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import toy_export


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(toy_export(tmp_path_factory.mktemp("export")), "--watch", "0") as running:
        yield running


def connect(server: LiveServer, sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    client.sendall(sent)
    return client


def test_a_body_does_not_count_as_the_headers_behind_it(server):
    body = json.dumps({"session": [3] * 1000, "k": 1}).encode() + b" " * 40_000
    one = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body)
    with connect(server, one + b"\r\n" + body + one[:20]) as client:
        time.sleep(0.2)
        client.sendall(one[20:] + b"Connection: close\r\n\r\n" + body)
        text = b"".join(iter(lambda: client.recv(65536), b""))
    assert text.count(b"HTTP/1.1 200 OK") == text.count(b"HTTP/1.1") == 2


@pytest.mark.parametrize("times", [1, 3])
def test_a_client_that_closes_its_side_is_answered(server, times):
    body = b'{"session": [3], "k": 1}'
    request = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with connect(server, request * times) as client:
        client.shutdown(socket.SHUT_WR)
        text = b"".join(iter(lambda: client.recv(65536), b""))
    assert text.count(b"HTTP/1.1 200 OK") == times
    with connect(server, request[:-1]) as client:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
