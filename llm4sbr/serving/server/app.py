"""The ASGI application: routes requests to their handlers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from llm4sbr.errors import InputError
from llm4sbr.serving.server import about, inference, recommend
from llm4sbr.serving.server.http import (
    Bodies,
    Receive,
    Refusal,
    Reply,
    Scope,
    Send,
    busy,
    check_host,
    header,
    parse_json,
    refuse,
    reply_json,
)
from llm4sbr.serving.server.logs import log, say
from llm4sbr.serving.server.metrics import Metrics, ModelMetrics
from llm4sbr.serving.server.models import Model, Models
from llm4sbr.serving.server.served import Served
from llm4sbr.serving.server.settings import Settings
from llm4sbr.serving.server.shadow import Shadows, Work

PAGE = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "/page.css": ("page.css", b"text/css; charset=utf-8"),
}

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: the page runs its own script and calls its own server, and loads nothing else."""

SAFE = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)

STICKY = b"x-sticky-key"
"""The header with a key whose requests all get the same model."""

EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]
"""Triton's names for what `/v2` has beyond the protocol."""

POSTED = {"infer", "recommend", "index", "filter"}
"""Routes that take POST; all others take GET."""


class App:
    """Answers requests with the current version of a model."""

    def __init__(self, served: Served, settings: Settings, metrics: Metrics) -> None:
        self.served = served
        self.shadows = Shadows(served.shadows)
        self.settings = settings
        self.metrics = metrics
        self.bodies = Bodies(settings)
        folder = files("llm4sbr.serving.server") / "page"
        self._page = {
            path: Reply((folder / name).read_bytes(), 200, kind, SAFE) for path, (name, kind) in PAGE.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        started = time.perf_counter()
        asked = Asked(*find_route(scope["path"]))
        try:
            reply = await self._reply(asked, scope, receive)
        except Refusal as error:
            reply = refuse(error)
        except InputError as error:
            reply = refuse(Refusal(400, str(error)))
        except asyncio.CancelledError:  # the drain time is over
            reply = refuse(busy(503, "the server stopped before this was answered; try again"))
        except Exception:
            log.exception("request failed", extra={"fields": {"route": asked.route}})
            reply = refuse(Refusal(500, "internal error; the server's log says more"))
        await _send(reply, send)
        seconds = time.perf_counter() - started
        asked.metrics(self.metrics).request(asked.route, reply.status, seconds)
        if reply.status == 200 and asked.models is not None and asked.work is not None:
            self.shadows.follow(asked.models, reply, asked.work)
        if self.settings.access_log:
            say(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=reply.status,
                ms=round(1000 * seconds, 3),
            )

    async def _reply(self, asked: Asked, scope: Scope, receive: Receive) -> Reply:
        route = asked.route
        check_host(scope, self.settings.allowed_hosts)
        if route == "unknown":
            raise Refusal(404, f"{scope['path']:.100}: no such path")
        allowed = ("POST",) if route in POSTED else ("GET", "HEAD")
        if scope["method"] not in allowed:
            headers = ((b"allow", ", ".join(allowed).encode()),)
            raise Refusal(405, f"{scope['method']}: expected {allowed[0]}", headers=headers)
        if route == "infer":
            asked.models, model = self.served.version(*asked.target)
            body = await self.bodies.read(scope, receive)
            asked.work = partial(_infer, body, header(scope, inference.LENGTH))
            return await asked.work(asked.models, model)
        if route == "recommend":
            given = parse_json(await self.bodies.read(scope, receive))
            asked.models = self.served.choose(given, header(scope, STICKY))
            asked.work = partial(_recommend, given)
            return await asked.work(asked.models)
        if route == "index":
            body = await self.bodies.read(scope, receive)
            ready = parse_json(body).get("ready", False) if body.strip() else False
            return reply_json(about.index(self.served, ready=ready is True))
        if route == "filter":
            return await self._filter(asked.target[0], scope, receive)
        if route == "filters":
            return await recommend.filters(scope["query_string"], self.served)
        if route == "items":
            query = recommend.parse_query(scope["query_string"])
            asked.models = self.served.named(query["model"]) if "model" in query else self.served.answering[0]
            return await recommend.search(query, asked.models.current, asked.models.name)
        return self._told(asked, scope["path"])

    async def _filter(self, name: str, scope: Scope, receive: Receive) -> Reply:
        """Replace a named filter of all models."""
        kind = (header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":  # which no page of another site can send without being asked first
            raise Refusal(415, "expected the content type application/json")
        given = parse_json(await self.bodies.read(scope, receive))
        models = {one.name: one.current.filters for one in self.served.models.values() if one.ready}
        found = await self.served.filters.change(name, given, models)
        return reply_json({"filter": name, "models": found})

    def _told(self, asked: Asked, path: str) -> Reply:
        """Replies that need no computation."""
        route, served = asked.route, self.served
        if route == "page":
            return self._page[path]
        if route == "metrics":
            return self.metrics.page()
        if route == "server":
            return reply_json({"name": "llm4sbr", "version": version("llm4sbr"), "extensions": EXTENSIONS})
        if route == "live":
            return reply_json({"live": True})
        if route == "ready":
            which = f" of {', '.join(served.refused)}" if len(served.models) > 1 else ""
            refused = {"refused": f"a newer version{which}; the log says why"} if served.refused else {}
            return reply_json({"ready": served.ready} | refused, 200 if served.ready else 503)
        if route == "models":
            return reply_json({"models": [*served.models]})
        if route == "all stats":
            ready = [one for one in served.models.values() if one.ready]
            return reply_json({"model_stats": [about.statistics(one) for one in ready]})
        asked.models, model = served.version(*asked.target)
        if route == "model ready":
            return reply_json({"name": asked.models.name, "ready": True})
        if route == "stats":
            return reply_json({"model_stats": [about.statistics(asked.models)]})
        told = about.configuration if route == "config" else about.metadata
        return reply_json(told(asked.models, model))


async def _infer(body: bytes, length: bytes | None, models: Models, model: Model | None = None) -> Reply:
    model = model or models.current
    query = inference.read(body, length, model.artefact, models.settings)
    answer = await inference.compute(query, model)
    return inference.write(query, answer, models.name, model.version)


async def _recommend(given: dict[str, Any], models: Models) -> Reply:
    model = models.current
    request = recommend.read(given, model, models.settings)
    return await recommend.recommend(request, model, models.name)


@dataclass
class Asked:
    """A request: what it asks for, and which model answers."""

    route: str
    target: tuple[str, ...] = ()
    """The model and version that the path names."""
    models: Models | None = None
    work: Work | None = None
    """What shadows compute along."""

    def metrics(self, all_: Metrics) -> ModelMetrics:
        """Where the request is counted."""
        return all_.of("" if self.models is None else self.models.name)


def find_route(path: str) -> tuple[str, tuple[str, ...]]:
    """The route of a path, and the model and version that it names."""
    if path in ROUTES:
        return ROUTES[path], ()
    parts = path.split("/")
    if parts[:2] == ["", "filters"] and len(parts) == 3:
        return "filter", (parts[2],)
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4:
        return "unknown", ()
    target: tuple[str, ...] = (parts[3],)
    rest = parts[4:]
    if rest[:1] == ["versions"] and len(rest) > 1:
        target, rest = (parts[3], rest[1]), rest[2:]
    asked = {(): "model", ("ready",): "model ready"} | {(one,): one for one in ("infer", "config", "stats")}
    return asked.get(tuple(rest), "unknown"), target


ROUTES = dict.fromkeys(PAGE, "page") | {
    "/recommend": "recommend",
    "/items": "items",
    "/filters": "filters",
    "/metrics": "metrics",
    "/v2": "server",
    "/v2/models": "models",
    "/v2/models/stats": "all stats",
    "/v2/repository/index": "index",
    "/v2/health/live": "live",
    "/v2/health/ready": "ready",
}


async def _send(reply: Reply, send: Send) -> None:
    size = str(len(reply.body)).encode()
    headers = [(b"content-type", reply.type), (b"content-length", size), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
