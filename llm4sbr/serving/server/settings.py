"""The server's settings: addresses, limits and timeouts."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Where to listen, how to batch, and the limits; times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one, which the log names."""
    grpc_port: int | None = None
    """Port for gRPC on the same host; 0 takes a free one, None listens on none."""
    name: str = "llm4sbr"
    """Name of the model in the URLs of the Open Inference Protocol."""
    threads: int = 1
    """Threads that one batch is computed with."""
    max_batch: int = 32
    """Sessions computed at once; also the most that one request may hold."""
    max_delay: float = 0.0
    """How long a session may wait for others to be computed with while nothing else is being computed."""
    queue: int = 256
    """Sessions that may wait; more are refused with 429."""
    max_session: int = 1000
    """Items that a session given to `/recommend` may have; the model sees the last of them."""
    max_body: int = 2 * MIB
    """Size of a request's body."""
    max_bodies: int = 64 * MIB
    """Size of all bodies held at once; requests beyond it are refused with 503."""
    max_head: int = 32 * 1024
    """Size of a request's line and headers."""
    connections: int = 4096
    """Open connections; more are refused with 503."""
    timeout: float = 10.0
    """For a client to send a whole request, and to take the answer."""
    idle: int = 30
    """For a kept connection to bring another request."""
    drain: int = 30
    """For open requests to be answered after SIGTERM."""
    watch: float = 2.0
    """Between two looks at the folder for a new version; 0 never looks."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, without port, that a request's Host may have; none allows every name."""
    access_log: bool = False
    """One line of log for every request."""
