"""The gRPC server: the same models, batches and limits as over HTTP, on the same event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from llm4sbr.errors import InputError
from llm4sbr.serving.server import about, inference
from llm4sbr.serving.server.app import App
from llm4sbr.serving.server.http import Refusal, Reply
from llm4sbr.serving.server.logs import log, say
from llm4sbr.serving.server.models import Model, Models
from llm4sbr.serving.server.settings import Settings
from llm4sbr.system import installation

if TYPE_CHECKING:
    import grpc

CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 413: "RESOURCE_EXHAUSTED", 429: "RESOURCE_EXHAUSTED"}
CODES |= {408: "DEADLINE_EXCEEDED", 500: "INTERNAL", 503: "UNAVAILABLE"}
"""Status over HTTP -> gRPC's."""


class Service:
    """Answers the calls of `GRPCInferenceService`.

    Raises:
        ModelUnavailableError: the extra `grpc` is not installed.
    """

    def __init__(self, app: App) -> None:
        try:
            import grpc
            from grpc_health.v1 import health, health_pb2, health_pb2_grpc

            from llm4sbr.serving.server.rpc import messages, tensors
        except ImportError as error:
            raise installation.not_installed(f"{error.name}, which --grpc-port needs,", "grpc") from None
        self.app = app
        self._messages, self._tensors = messages, tensors
        self._health = health.aio.HealthServicer()
        self._states = health_pb2.HealthCheckResponse
        calls = {
            # As a stream of one message, which is the same to clients: a call then begins with its head, and
            # how long the message takes can be limited.
            name: grpc.stream_unary_rpc_method_handler(partial(self._answer, name, kind))
            for name, kind in messages.methods().items()
        }
        self._calls = grpc.method_handlers_generic_handler(messages.SERVICE, calls)
        self._add_health = partial(health_pb2_grpc.add_HealthServicer_to_server, self._health)
        self._grpc = grpc
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen; `InputError` if that address cannot be listened on."""
        settings = self.app.settings
        server = self._grpc.aio.server(options=_limits(settings), maximum_concurrent_rpcs=settings.queue)
        server.add_generic_rpc_handlers([self._calls])
        self._add_health(server)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError:
            raise InputError(
                f"{host}:{settings.grpc_port}: cannot be listened on; choose another --grpc-port"
            ) from None
        await self.tell()
        await server.start()
        self._server = server
        say("grpc listening", address=f"{host}:{port}")

    async def tell(self) -> None:
        """Tell those who watch the server's health whether it is ready."""
        state = self._states.SERVING if self.app.served.ready else self._states.NOT_SERVING
        for name in ("", self._messages.SERVICE):
            await self._health.set(name, state)

    async def stop(self) -> None:
        """Take no more calls, and wait for the open ones as long as `Settings.drain`."""
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(self.app.settings.drain)

    async def _answer(
        self, name: str, kind: Any, sent: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> bytes:
        started = time.perf_counter()
        counted = self.app.metrics.of("")
        try:
            request, body = kind(), await self._received(sent)
            try:
                request.ParseFromString(body)
            except Exception:  # protobuf's implementations have errors of their own
                raise Refusal(400, f"the message is no {kind.DESCRIPTOR.name}") from None
            if name == "ModelInfer":
                models, model = self.app.served.version(request.model_name, request.model_version)
                counted = models.metrics
                reply = await self._infer(models, model, request)
            else:
                reply = getattr(self, f"_{name}")(request)
            status, told = 200, bytes(reply.SerializeToString())
        except asyncio.CancelledError:
            raise
        except Exception as error:
            status, told = self._refused(name, error)
        counted.request(ROUTES.get(name, "grpc"), status, time.perf_counter() - started)
        if status != 200:
            await context.abort(getattr(self._grpc.StatusCode, CODES.get(status, "UNKNOWN")), told.decode())
        return told

    async def _received(self, sent: AsyncIterator[bytes]) -> bytes:
        """The call's message; a refusal, 408, if it is not there within `Settings.timeout`."""
        seconds = self.app.settings.timeout
        try:
            async with asyncio.timeout(seconds):
                return await anext(sent)
        except TimeoutError:
            raise Refusal(408, f"no whole message within {seconds:g} s") from None
        except StopAsyncIteration:
            raise Refusal(400, "the call has no message") from None

    def _refused(self, name: str, error: Exception) -> tuple[int, bytes]:
        if not isinstance(error, Refusal | InputError):
            log.exception("call failed", extra={"fields": {"call": name}})
            error = Refusal(500, "internal error; the server's log says more")
        status = error.status if isinstance(error, Refusal) else 400
        return status, " ".join(str(error).split()).encode()

    async def _infer(self, models: Models, model: Model, request: Any) -> Any:
        given, raw = self._tensors.unpack(request)
        query, answer = await _compute(given, raw, models, model)
        self.app.shadows.follow(models, Reply(b""), partial(_along, given, raw))
        return self._tensors.pack(query, answer, models.name, model.version)

    def _ServerLive(self, request: Any) -> Any:
        return self._messages.message("ServerLiveResponse")(live=True)

    def _ServerReady(self, request: Any) -> Any:
        return self._messages.message("ServerReadyResponse")(ready=self.app.served.ready)

    def _ModelReady(self, request: Any) -> Any:
        try:
            self.app.served.version(request.name, request.version)
        except Refusal:
            return self._messages.message("ModelReadyResponse")(ready=False)
        return self._messages.message("ModelReadyResponse")(ready=True)

    def _ServerMetadata(self, request: Any) -> Any:
        return self._messages.message("ServerMetadataResponse")(name="llm4sbr", version=version("llm4sbr"))

    def _ModelMetadata(self, request: Any) -> Any:
        models, model = self.app.served.version(request.name, request.version)
        return self._messages.message("ModelMetadataResponse")(**about.metadata(models, model))

    def _ModelConfig(self, request: Any) -> Any:
        found = about.configuration(*self.app.served.version(request.name, request.version))
        return self._messages.message("ModelConfigResponse")(config=found)

    def _ModelStatistics(self, request: Any) -> Any:
        models, _ = self.app.served.version(request.name, request.version)
        found = about.statistics(models)
        return self._messages.message("ModelStatisticsResponse")(model_stats=[found])


ROUTES = {"ModelInfer": "grpc infer"}
"""Call -> its route in the metrics; `grpc` for all others."""


async def _compute(
    given: dict[str, Any], raw: bytes, models: Models, model: Model
) -> tuple[inference.Query, inference.Answered]:
    query = inference.query(given, memoryview(raw), model.artefact, models.settings)
    return query, await inference.compute(query, model)


async def _along(given: dict[str, Any], raw: bytes, models: Models) -> Reply:
    """What a shadow does with an answered request."""
    await _compute(given, raw, models, models.current)
    return Reply(b"")


def _limits(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_body),
        ("grpc.max_metadata_size", settings.max_head),
        ("grpc.max_connection_idle_ms", 1000 * settings.idle),
        ("grpc.server_handshake_timeout_ms", round(1000 * settings.timeout)),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error, not shared
    ]
