"""Shadow mode: models that compute what another one has answered, without anybody waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import orjson

from llm4sbr.serving.server.http import Refusal, Reply
from llm4sbr.serving.server.logs import log
from llm4sbr.serving.server.models import Models

WAITING = 32
"""Maximum number of requests that a shadow has not finished; further ones are dropped."""

Work = Callable[..., Awaitable[Reply]]
"""Computes a reply, given the model."""


class Shadows:
    """Passes answered requests on to shadows.

    They begin when the answer is sent, compute in threads of their own and lower priority, and whatever they
    do is only counted: `done`, `failed` or `dropped`, and how much of the list they share.
    """

    def __init__(self, shadows: Sequence[Models]) -> None:
        self.shadows = shadows
        self._running: dict[str, set[asyncio.Task[None]]] = {one.name: set() for one in shadows}

    def follow(self, answered: Models, reply: Reply, work: Work) -> None:
        """Have the shadows compute what `answered` has answered."""
        for models in self.shadows:
            if models is answered:
                continue
            running = self._running[models.name]
            if len(running) >= WAITING:
                models.metrics.shadowed("dropped")
                continue
            task = asyncio.create_task(_compute(models, reply, work))
            running.add(task)
            task.add_done_callback(running.discard)

    async def stop(self) -> None:
        """Leave off."""
        for task in [task for running in self._running.values() for task in running]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _compute(models: Models, reply: Reply, work: Work) -> None:
    try:
        found = await work(models)
    except Exception as error:
        models.metrics.shadowed("failed")
        if not isinstance(error, Refusal):
            log.warning("shadow failed", extra={"fields": {"model": models.name, "error": str(error)}})
        return
    models.metrics.shadowed("done", _shared(reply, found))


def _shared(answered: Reply, found: Reply) -> float | None:
    """The share of the answered list that the other has, too; None for replies of another kind."""
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        first, second = (
            {one["key"] for one in orjson.loads(reply.body)["items"]} for reply in (answered, found)
        )
        return len(first & second) / len(first) if first else None
    return None
