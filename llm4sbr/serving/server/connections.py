"""uvicorn's HTTP protocol, with time limits against clients that send or read too slowly."""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar, Literal

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llm4sbr.serving.server.settings import Settings

PIPELINED = 32
"""Maximum number of pipelined requests; uvicorn has no limit."""


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
    _head = 0
    """Bytes of a request's line and headers so far, except those received together with another request."""
    _shared = False
    """Whether the bytes being parsed also contain another request."""
    _last = False
    """Whether the client has closed its sending side."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the client, or reject it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections:
            self._refuse(503, "too many connections; try again")
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove its deadline."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data, and set or remove the deadline depending on the request's progress."""
        self._shared = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._part == "head":
            self._head += 0 if self._shared else len(data)
            if self._head > self.settings.max_head:
                self._refuse(431, f"the headers are larger than {self.settings.max_head:,} bytes")
            elif self._deadline is None:
                self._arm()
        elif self._deadline is not None and not self._body_is_dropped():
            self._disarm()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more; its open requests are still answered."""
        self._last = self._part == "none" and self.cycle is not None and not self.cycle.response_complete
        return self._last

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._part = "head"

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._part, self._head, self._shared = "body", 0, True
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests ahead of their answers")  # ends the parsing with a 400
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Its body is there."""
        self._part, self._shared = "none", True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The response is complete; if the connection closes now, the client must still read it."""
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
        if not self.transport.is_closing():
            self._disarm()

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
        if self.transport.is_closing() or self.flow.write_paused or self._part == "body":
            self.transport.abort()
        elif self._part == "head":
            self._refuse(408, f"the headers did not come within {self.settings.timeout:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.transport.write(
            STATUS_LINE[status] + b"content-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()
        self._arm()

    def send_400_response(self, msg: str) -> None:
        """The response to data that is not HTTP, as JSON like every other error."""
        self._refuse(400, msg)
