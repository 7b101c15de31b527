"""Requests and replies over ASGI: bodies within their limits, errors as JSON."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from llm4sbr.serving.server.settings import Settings

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"

CODINGS = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""Content coding -> zlib's `wbits`."""


class Refusal(Exception):
    """A request that cannot be answered: a status code and one line with the reason."""

    def __init__(self, status: int, message: str, *, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class Reply(NamedTuple):
    """An HTTP response."""

    body: bytes
    status: int = 200
    type: bytes = JSON
    headers: Headers = ()


def reply_json(value: object, status: int = 200, headers: Headers = ()) -> Reply:
    """A reply of one JSON value."""
    return Reply(orjson.dumps(value), status, JSON, headers)


def refuse(error: Refusal) -> Reply:
    """`{"error": "..."}` with the refusal's status code."""
    return reply_json({"error": " ".join(str(error).split())}, error.status, error.headers)


def busy(status: int, message: str) -> Refusal:
    """A refusal that asks the client to retry after a second."""
    return Refusal(status, message, headers=((b"retry-after", b"1"),))


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def check_host(scope: Scope, allowed: Sequence[str]) -> None:
    """Raise `Refusal` 421 if names are listed and the request's Host is none of them."""
    if not allowed:
        return
    given = [bytes(value) for key, value in scope["headers"] if key == b"host"]
    name = given[0].decode("latin-1") if len(given) == 1 else ""
    name = re.sub(r":\d*$", "", name).strip("[]").rstrip(".").lower()
    if name not in allowed:
        raise Refusal(421, f"Host {name!r:.60}: not one of those that this server answers for")


def parse_json(text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Refusal: 400, not JSON or not an object.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(400, f"expected a JSON object, not {type(value).__name__}")
    return value


def unpack(body: bytes, coding: bytes, most: int) -> bytes:
    """A body that was sent as gzip or deflate; no more of it is unpacked than is allowed.

    Raises:
        Refusal: 400 not of that kind, cut off, or followed by something; 413 larger than `most` bytes.
    """
    kind = CODINGS[coding]
    if coding == b"deflate" and body[:1] and (body[0] & 15 != 8 or int.from_bytes(body[:2]) % 31):
        kind = -zlib.MAX_WBITS  # without zlib's header, as some clients send it
    reader = zlib.decompressobj(kind)
    try:
        found = reader.decompress(body, most + 1)
    except zlib.error:
        raise Refusal(400, f"the body is not {coding.decode()}, as its Content-Encoding says") from None
    if len(found) > most:
        raise Refusal(413, f"the body is larger than {most:,} bytes when unpacked")
    if not reader.eof or reader.unused_data:
        wrong = "is cut off" if not reader.eof else "has something behind its end"
        raise Refusal(400, f"the {coding.decode()} body {wrong}")
    return found


class Bodies:
    """Reads request bodies, and tracks how many bytes of them are in memory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held = 0

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            Refusal: 408 too slow, 413 too large (packed or not), 415 packed in an unknown way, 503 too many
                at once.
        """
        coding = (header(scope, b"content-encoding") or b"identity").strip().lower()
        if coding not in (b"identity", *CODINGS):
            known = ((b"accept-encoding", b"gzip, deflate"),)
            raise Refusal(
                415,
                f"content coding {coding.decode('latin-1')!r:.60}: expected gzip, deflate or none",
                headers=known,
            )
        announced = header(scope, b"content-length")
        if announced and int(announced) > self.settings.max_body:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.settings.timeout):
                body = await self._whole(receive)
            return body if coding == b"identity" else unpack(body, coding, self.settings.max_body)
        except TimeoutError:
            seconds = f"{self.settings.timeout:g} seconds"
            close = ((b"connection", b"close"),)
            raise Refusal(408, f"the body did not come within {seconds}", headers=close) from None

    async def _whole(self, receive: Receive) -> bytes:
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            return self._within(message["body"])
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "the client went away")
                parts.append(message["body"])
                size += len(message["body"])
                self.held += len(message["body"])
                if size > self.settings.max_body:
                    raise self._too_large()
                if self.held > self.settings.max_bodies:
                    raise busy(503, "too many large requests at once; try again")
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await receive()
        finally:
            self.held -= size

    def _within(self, body: bytes) -> bytes:
        if len(body) > self.settings.max_body:
            raise self._too_large()
        return body

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self.settings.max_body:,} bytes")
