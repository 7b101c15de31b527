"""Starts the server, and stops it without losing a request."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import uvicorn

from llm4sbr.errors import InputError
from llm4sbr.serving.server.app import App
from llm4sbr.serving.server.connections import protocol
from llm4sbr.serving.server.logs import say, to_standard_error
from llm4sbr.serving.server.metrics import Metrics
from llm4sbr.serving.server.models import Models, find_folder
from llm4sbr.serving.server.named import NamedFilters
from llm4sbr.serving.server.rpc.service import Service
from llm4sbr.serving.server.served import Served
from llm4sbr.serving.server.settings import Settings
from llm4sbr.system import memory

SWITCH = 0.0001
"""Seconds after which a thread yields to others; CPython's 0.005 is long compared to a response time."""

GARBAGE = 10_000
"""New objects between two garbage collections; the default 700 are those of ten requests, without cycles."""

OTHER_FILES = 64
"""Maximum number of open files besides connections."""


def serve(
    paths: Mapping[str, Path],
    settings: Settings,
    *,
    shares: Mapping[str, float] | None = None,
    shadows: Sequence[str] = (),
    filters: Mapping[str, Path] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; open requests are then still answered.

    Args:
        paths: name -> an export folder, or a run directory that has one; the run's known sessions then have
            intents.
        settings: where to listen, and the limits.
        shares: as for `Served`.
        shadows: as for `Served`.
        filters: as for `NamedFilters`.

    Raises:
        InputError: the address cannot be listened on.
        StoreError: there is no exported model, or it is damaged.
    """
    to_standard_error()
    sys.setswitchinterval(SWITCH)
    gc.set_threshold(GARBAGE)
    memory.reuse_freed()  # a filter's values for every item, of one request after the other
    folders = {name: find_folder(path) for name, path in paths.items()}
    metrics, filtered = Metrics(), NamedFilters(filters)
    models = {}
    for name, folder in folders.items():
        run = paths[name] if folder != paths[name] else None
        named = replace(settings, name=name)
        models[name] = Models(folder, named, metrics, run=run, named=filtered, shadow=name in shadows)
    served = Served(models, shares, shadows, filtered)
    listening = listen(settings)
    settings = replace(settings, connections=most_connections(settings.connections))
    app = App(served, settings, metrics)
    server = Server(_config(app, settings), app)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn first finishes open requests, then raises the signal again for earlier handlers, of which
        # there are none.
        signal.signal(number, lambda *_: None)
    told = {"folder": str(*folders.values())} if len(folders) == 1 else {"folders": folders}
    host, port = listening.getsockname()[:2]
    say("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", **told)
    server.run(sockets=[listening])
    if server.failed is not None:
        raise server.failed
    say("stopped")


class Server(uvicorn.Server):
    """uvicorn's server, which opens the models once it listens and stops if one that answers fails."""

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self.app = app
        self.rpc: Service | None = Service(app) if app.settings.grpc_port is not None else None
        self.failed: Exception | None = None

    async def main_loop(self) -> None:
        """Run until a signal stops it."""
        if self.rpc is not None:
            try:
                await self.rpc.start()
            except InputError as error:
                self.failed = error
                return
        served = self.app.served
        working = [
            asyncio.create_task(self._work(one, one in served.shadows)) for one in served.models.values()
        ]
        looking = served.filters.watch(served.current_filters, self.app.settings.watch)
        working.append(asyncio.create_task(looking))
        await super().main_loop()
        say("draining")
        for task in working:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.app.shadows.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is open, over HTTP and gRPC."""
        stops = [super().shutdown(sockets)] + ([self.rpc.stop()] if self.rpc is not None else [])
        await asyncio.gather(*stops)

    async def _work(self, models: Models, shadow: bool) -> None:
        if shadow:
            await models.reload()
        else:
            try:
                await models.load()
            except Exception as error:
                self.failed = self.failed or error
                self.should_exit = True
                return
        if self.rpc is not None:
            await self.rpc.tell()
        if models.settings.watch:
            await models.watch()


def _config(app: App, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol(settings),
        loop="auto",  # uvloop wherever it exists
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.idle,
        timeout_graceful_shutdown=settings.drain,
    )


def listen(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say; `InputError` if it cannot."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is not None and number in errno.errorcode:
            reason = os.strerror(number)
        else:  # a name that stands for no address has numbers of its own
            reason = str(getattr(error, "strerror", None) or error).partition(" (while attempting")[0]
        raise InputError(
            f"{settings.host}:{settings.port}: {reason}; choose another --host or --port"
        ) from None


def most_connections(wanted: int) -> int:
    """As many of the wanted connections as the system gives this process files for, after asking for more."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return wanted
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems take no unlimited number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft - OTHER_FILES), 1)
