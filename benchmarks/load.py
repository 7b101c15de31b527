"""Open-loop load on an HTTP server: requests are sent on schedule, whether or not earlier ones were answered.

Latency is measured from the scheduled time, so that if the server stalls, the waiting time of every scheduled
request counts, whether it could be sent or not (no "coordinated omission"). There is one thread with plain
keep-alive sockets: 1,000 requests/s take a small part of a core.
"""

from __future__ import annotations

import math
import random
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

GRACE = 2.0
"""Seconds after the last scheduled request; later answers count as errors."""


@dataclass
class LoadResult:
    """Result of one period of load."""

    rate: float
    seconds: float
    latencies: list[float] = field(default_factory=list)
    """Seconds from the scheduled time to the answer, for good answers."""
    errors: int = 0
    """Status codes other than 200, broken connections, missing answers."""
    connections: int = 0

    def quantile(self, share: float) -> float:
        """Quantile of the latency in seconds; infinity if there are no good answers."""
        ordered = sorted(self.latencies)
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.inf

    def as_dict(self) -> dict[str, float | None]:
        """Summary with latencies in milliseconds, None if there are no good answers."""
        told: dict[str, float | None] = dict.fromkeys(("p50", "p90", "p99", "max"))
        if self.latencies:
            told = {f"p{round(100 * q)}": round(1000 * self.quantile(q), 3) for q in (0.5, 0.9, 0.99)}
            told["max"] = round(1000 * max(self.latencies), 3)
        done = {"requests": len(self.latencies) + self.errors, "errors": self.errors}
        return {"rate": self.rate, "seconds": self.seconds} | done | told | {"connections": self.connections}


class _Connection:
    """A keep-alive connection with at most one open request."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._received = b""

    def fileno(self) -> int:
        """For `select`."""
        return self.socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was scheduled for `due`."""
        self.due, self._received = due, b""
        self.socket.sendall(request)

    def receive(self) -> int:
        """The answer's status code, 0 while it is not whole; `ConnectionError` if it breaks off."""
        part = self.socket.recv(65536)
        if not part:
            raise ConnectionResetError("closed by the server")
        self._received += part
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return 0
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        return int(head[9:12]) if len(body) >= length else 0


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times (seconds from now) at which requests of a Poisson process are due."""
    generator = random.Random(seed)
    due, at = [], generator.expovariate(rate)
    while at < seconds:
        due.append(at)
        at += generator.expovariate(rate)
    return due


def offer(
    address: tuple[str, int],
    requests: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    most: int = 512,
    seed: int = 0,
) -> LoadResult:
    """Send load and measure the answers; ends at most `GRACE` seconds after the last request.

    Args:
        address: host and port.
        requests: whole HTTP requests, sent in turn.
        rate: requests per second on average, arriving as a Poisson process.
        seconds: duration.
        most: maximum number of connections; if all are busy, a request waits, which adds to its latency.
        seed: seed of the schedule.
    """
    result = LoadResult(rate, seconds)
    schedule = deque(poisson(rate, seconds, seed))
    waiting: deque[float] = deque()
    idle = [_Connection(address) for _ in range(8)]
    busy: set[_Connection] = set()
    started, sent = time.perf_counter(), 0
    while schedule or busy or waiting:
        now = time.perf_counter() - started
        if now > seconds + GRACE:
            break
        while schedule and schedule[0] <= now:
            waiting.append(schedule.popleft())
        while waiting and (idle or len(busy) < most):
            connection = _kept(idle, now) or _Connection(address)
            connection.send(requests[sent % len(requests)], waiting.popleft())
            busy.add(connection)
            sent += 1
        left = (schedule[0] if schedule else seconds + GRACE) - (time.perf_counter() - started)
        for ready in select.select(list(busy), [], [], max(left, 0.0))[0]:
            _take(ready, result, started, idle, busy)
    result.errors += len(busy) + len(waiting) + len(schedule)
    result.connections = len(idle) + len(busy)
    for connection in [*idle, *busy]:
        connection.socket.close()
    return result


def _kept(idle: list[_Connection], now: float) -> _Connection | None:
    """An idle connection, reopened if the server has closed it."""
    while idle:
        connection = idle.pop()
        if now - connection.due < 1 or not select.select([connection], [], [], 0)[0]:
            return connection
        connection.socket.close()
    return None


def _take(
    ready: _Connection, result: LoadResult, started: float, idle: list[_Connection], busy: set[_Connection]
) -> None:
    """Read from a connection; if its answer is complete, add it to the result."""
    try:
        status = ready.receive()
    except OSError:
        result.errors += 1
        busy.discard(ready)
        ready.socket.close()
        return
    if not status:
        return
    if status == 200:
        result.latencies.append(time.perf_counter() - started - ready.due)
    else:
        result.errors += 1
    busy.discard(ready)
    idle.append(ready)
