"""The ASGI application: routes requests to their handlers."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from llm4sbr.errors import InputError
from llm4sbr.serving.server import inference, recommend
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
    refuse,
    reply_json,
)
from llm4sbr.serving.server.logs import log, say
from llm4sbr.serving.server.metrics import Metrics
from llm4sbr.serving.server.models import Model, Models
from llm4sbr.serving.server.settings import Settings

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

POSTED = {"infer", "recommend"}
"""Routes that take POST; all others take GET."""


class App:
    """Answers requests with the current model."""

    def __init__(self, models: Models, settings: Settings, metrics: Metrics) -> None:
        self.models = models
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
        route, target = find_route(scope["path"])
        try:
            reply = await self._reply(route, target, scope, receive)
        except Refusal as error:
            reply = refuse(error)
        except InputError as error:
            reply = refuse(Refusal(400, str(error)))
        except asyncio.CancelledError:  # the drain time is over
            reply = refuse(busy(503, "the server stopped before this was answered; try again"))
        except Exception:
            log.exception("request failed", extra={"fields": {"route": route}})
            reply = refuse(Refusal(500, "internal error; the server's log says more"))
        await _send(reply, send)
        seconds = time.perf_counter() - started
        self.metrics.request(route, reply.status, seconds)
        if self.settings.access_log:
            say(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=reply.status,
                ms=round(1000 * seconds, 3),
            )

    async def _reply(self, route: str, target: tuple[str, ...], scope: Scope, receive: Receive) -> Reply:
        check_host(scope, self.settings.allowed_hosts)
        if route == "unknown":
            raise Refusal(404, f"{scope['path']:.100}: no such path")
        allowed = ("POST",) if route in POSTED else ("GET", "HEAD")
        if scope["method"] not in allowed:
            headers = ((b"allow", ", ".join(allowed).encode()),)
            raise Refusal(405, f"{scope['method']}: expected {allowed[0]}", headers=headers)
        if route == "infer":
            return await self._infer(self._model(*target), scope, receive)
        if route == "recommend":
            body = await self.bodies.read(scope, receive)
            model = self.models.current
            request = recommend.read(body, model, self.settings)
            return await recommend.recommend(request, model, self.settings.name)
        if route == "items":
            return await recommend.search(scope["query_string"], self.models.current)
        return self._told(route, target, scope["path"])

    def _told(self, route: str, target: tuple[str, ...], path: str) -> Reply:
        """Replies that need no computation."""
        name = self.settings.name
        if route == "page":
            return self._page[path]
        if route == "metrics":
            return self.metrics.page()
        if route == "server":
            about: dict[str, Any] = {"name": "llm4sbr", "version": version("llm4sbr")}
            return reply_json(about | {"extensions": ["binary_tensor_data"]})
        if route == "live":
            return reply_json({"live": True})
        if route == "ready":
            refused = {"refused": "a newer version; the log says why"} if self.models.refused else {}
            return reply_json({"ready": self.models.ready} | refused, 200 if self.models.ready else 503)
        model = self._model(*target)
        if route == "model ready":
            return reply_json({"name": name, "ready": True})
        return inference.metadata(model.artefact, name, model.version)

    async def _infer(self, model: Model, scope: Scope, receive: Receive) -> Reply:
        body = await self.bodies.read(scope, receive)
        query = inference.read(body, header(scope, inference.LENGTH), model.artefact, self.settings)
        answer = await model.batcher.submit(query.job)
        return inference.write(query, answer, self.settings.name, model.version)

    def _model(self, name: str, wanted: str = "") -> Model:
        """The model of that name and version; any version if none is named."""
        if name != self.settings.name:
            raise Refusal(404, f"model {name!r:.60}: unknown; this server has {self.settings.name!r}")
        model = self.models.current
        if wanted and wanted != model.version:
            raise Refusal(404, f"version {wanted!r:.60}: not served; there is {model.version!r}")
        return model


def find_route(path: str) -> tuple[str, tuple[str, ...]]:
    """The route of a path, and the model and version that it names."""
    if path in ROUTES:
        return ROUTES[path], ()
    parts = path.split("/")
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4:
        return "unknown", ()
    target: tuple[str, ...] = (parts[3],)
    rest = parts[4:]
    if rest[:1] == ["versions"] and len(rest) > 1:
        target, rest = (parts[3], rest[1]), rest[2:]
    asked = {(): "model", ("ready",): "model ready", ("infer",): "infer"}
    return asked.get(tuple(rest), "unknown"), target


ROUTES = dict.fromkeys(PAGE, "page") | {
    "/recommend": "recommend",
    "/items": "items",
    "/metrics": "metrics",
    "/v2": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "ready",
}


async def _send(reply: Reply, send: Send) -> None:
    size = str(len(reply.body)).encode()
    headers = [(b"content-type", reply.type), (b"content-length", size), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
