"""uvicorn's HTTP protocol, with limits on everything that a client may send, and on how slowly it does.

What arrives is handed to the parser in pieces: the lines of a head, then a body. So every byte counts as it
comes, whether the parser keeps it or not (the sizes and extensions of chunks, trailers, blank lines), and no
head is longer than allowed because it came at once.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, ClassVar, Literal

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llm4sbr.serving.server.settings import Settings

PIPELINED = 32
"""Maximum number of pipelined requests; uvicorn has no limit."""

CHUNK = re.compile(rb"([0-9a-fA-F]{1,16})\s*(?:;.*)?\r\n\Z", re.DOTALL)
"""The line before a chunk; the parser decides what is right, this only finds where a piece ends."""

UPGRADE = re.compile(rb"^upgrade(?=:)", re.IGNORECASE | re.MULTILINE)
"""An offer to change the protocol, behind which httptools drops the body."""


def protocol(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol class with these limits, for uvicorn's `http` setting."""
    return type("LimitedConnection", (Connection,), {"settings": settings})


class Connection(HttpToolsProtocol):
    """One client connection.

    uvicorn times idle connections only, so a client could hold one for ever by sending its headers, or
    taking its answer, byte by byte. Here both have a deadline that further bytes do not move. (So has the
    body, in `http.Bodies`.)
    """

    settings: ClassVar[Settings]

    _part: Literal["none", "head", "body"] = "none"
    """The part of a request that is being read."""
    _held = b""
    """The beginning of a line of the head."""
    _at_line = False
    """Whether the parser has got whole lines of a head."""
    _head = 0
    """Bytes of a request's line and headers so far, and of what was before them."""
    _body = 0
    """Bytes that came after the head, of whatever kind."""
    _left = 0
    """Bytes to come of the body, or of the chunk and its line end."""
    _chunked = False
    """Whether the body comes in chunks."""
    _trailers = False
    """Whether the last chunk has come."""
    _last = False
    """Whether the client has closed its sending side."""
    _lingering = False
    """Whether all is said, and what still comes is dropped, so that the client reads the answer."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the client, or reject it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections:
            self._refuse(503, "too many connections; try again", linger=False)
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove its deadline."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data, and set or remove the deadline depending on the request's progress."""
        at = 0
        while at < len(data) and not self.transport.is_closing():
            if self._lingering:
                self._drop(len(data) - at)
                return
            at = self._body_received(data, at) if self._part == "body" else self._head_received(data, at)
        if self.transport.is_closing() or self._lingering:
            return
        if self._part == "head" or (self._held and self._part == "none"):
            if self._deadline is None:
                self._arm()
        elif self._deadline is not None and not self._body_is_dropped():
            self._disarm()

    def _head_received(self, data: bytes, at: int) -> int:
        """Parse whole lines of a head; returns where what follows it begins."""
        before, held = len(self._held), self._held + data[at:]
        blank = 2 if self._at_line and held.startswith(b"\r\n") else held.find(b"\r\n\r\n") + 4
        end = blank if blank > 3 or (blank == 2 and self._at_line) else held.rfind(b"\n") + 1
        rest = held[end:] if blank == end else b""
        if not end and not (held[0] < 14 or 64 < held[0] < 91):  # no letter and no line end: not HTTP
            end = len(held)
        self._held = held[end : len(held) - len(rest)]
        self._head += len(held) - before - len(rest)
        if self._head > self.settings.max_head:
            self._refuse(431, f"the headers are larger than {self.settings.max_head:,} bytes")
            return len(data)
        if end:
            super().data_received(UPGRADE.sub(b"x-upgrade", held[:end]))
            self._at_line = self._part == "head"
        if self._part == "body" and self._held:
            rest, self._held = self._held + rest, b""
        return len(data) - len(rest)

    def _body_received(self, data: bytes, at: int) -> int:
        """Parse what came of a body, its frame included; returns where what follows it begins."""
        start = at
        while at < len(data):
            if self._left:
                end = min(at + self._left, len(data))
                self._left -= end - at
                ended = not self._chunked and not self._left
            else:  # the line before a chunk, or one behind the last
                found = data.find(b"\n", at) + 1
                end = found or len(data)
                line = self._held + data[at:end]
                self._held = b"" if found else line
                ended = bool(found) and self._line_ends_body(line)
            at = end
            if ended:
                break
        self._body += at - start
        over = self._body > self.settings.max_body + self.settings.max_head
        if self._chunked and (over or len(self._held) > self.settings.max_head):
            if not self._body_is_dropped():
                self._refuse(413, f"the body is larger than {self.settings.max_body:,} bytes")
                return len(data)
            self._held = b""
        super().data_received(data[start:at])
        return at

    def _line_ends_body(self, line: bytes) -> bool:
        """Whether a line between chunks is the last, or one that the parser will refuse."""
        if self._trailers:
            return line == b"\r\n"
        size = CHUNK.match(line)
        self._left = int(size[1], 16) + 2 if size and int(size[1], 16) else 0
        self._trailers = bool(size) and not self._left
        return not size

    def _drop(self, size: int) -> None:
        self._left -= size
        if self._left <= 0 and self._part == "body" and not self._chunked:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more; its open requests are still answered."""
        waiting = self.cycle is not None and not self.cycle.response_complete
        self._last = self._part == "none" and waiting and not self._lingering
        return self._last

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._part = "head"

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those behind a body are nobody's business."""
        if self._part == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._part, self._head, self._body = "body", 0, 0
        codings = b",".join(value for name, value in self.headers if name == b"transfer-encoding")
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._left = 0 if codings or not lengths else int(lengths[0])
        self._chunked, self._trailers, self._at_line = bool(codings), False, False
        if codings and codings.strip().lower() != b"chunked":
            self._refuse(
                501, f"transfer coding {codings.decode('latin-1')!r:.60}: only chunked is understood"
            )
            return
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests ahead of their answers")  # ends the parsing with a 400
        super().on_headers_complete()
        self.cycle.transport = _Lingering(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        if not self._lingering:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Its body is there."""
        self._part = "none"
        if not self._lingering:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The response is complete; if the connection closes now, the client must still read it."""
        if self._lingering:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            return
        super().on_response_complete()
        if self._last and self.cycle.response_complete:
            self.transport.close()
        if self._body_is_dropped() or self.transport.is_closing():
            self._arm()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        super().timeout_keep_alive_handler()
        self._arm()

    def pause_writing(self) -> None:
        """The client does not read the response: start its deadline."""
        super().pause_writing()
        self._arm()

    def resume_writing(self) -> None:
        """The client reads the response again."""
        super().resume_writing()
        if not self.transport.is_closing() and not self._lingering:
            self._disarm()

    def linger(self) -> None:
        """Say no more, and close when the client has sent the rest of its request, which is dropped.

        Closing with unread bytes would reset the connection, and the client might never see its answer.
        """
        self._lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._arm()

    def _body_is_dropped(self) -> bool:
        """Whether a request was answered early (such as with 413) and the rest of it is being discarded."""
        return self._part == "body" and self.cycle is not None and self.cycle.response_complete

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self.settings.timeout, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.transport.is_closing() or self.flow.write_paused or self._lingering or self._part == "body":
            self.transport.abort()
        elif self._part == "head" or self._held:
            self._refuse(408, f"the headers did not come within {self.settings.timeout:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str, *, linger: bool = True) -> None:
        if self._lingering:
            return
        body = json.dumps({"error": message}).encode()
        self.transport.write(
            STATUS_LINE[status] + b"content-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        if self.cycle is not None and not self.cycle.response_complete:  # nothing may be sent behind this
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._held = b""
        if linger:
            self._part = "none"  # what still comes has no end that is waited for
            self.linger()
        else:
            self.transport.close()
            self._arm()

    def send_400_response(self, msg: str) -> None:
        """The response to data that is not HTTP, as JSON like every other error."""
        self._refuse(400, msg)


class _Lingering:
    """A connection's transport, as the response sees it: closing waits for the rest of the request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)

    def close(self) -> None:
        connection = self._connection
        if connection._part == "body" and not connection._lingering:
            connection.linger()
        else:
            connection.transport.close()
