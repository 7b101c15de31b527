"""The engine `ray`: actors that hold the LLM or the encoder, on one machine or many.

Blocks are distributed to the actors round-robin, only a few before the oldest result is back, and results are
returned in the order of the blocks. The driver keeps a limited number of blocks in memory, and only the
driver uses the answer cache. If an actor dies, it is restarted and its blocks are repeated. Batches are the
same as with the engine `local`, so answers differ only if the LLM itself is not deterministic.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from llm4sbr.errors import ConfigError, Llm4sbrError

__all__ = ["RayEngine"]

AHEAD = 2
"""Maximum number of blocks per worker that are sent before the oldest result is back."""


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Worker:
    """An actor: creates the work function once and applies it to blocks."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.work = make()

    def do(self, block: Any) -> Any:
        """The result for one block."""
        return self.work(block)

    def process(self) -> int:
        """Process id of the worker."""
        return os.getpid()


class RayEngine:
    """Runs the work on Ray actors.

    Args:
        workers: number of actors; by default one per GPU of the cluster, else one per core.
        address: address of a running cluster, such as `auto` or `ray://host:10001`; by default a local
            cluster is started, and stopped after the run.
        cpus: cores reserved per actor.
        gpus: GPUs reserved per actor.

    Raises:
        ConfigError: fewer than one worker, or no such cluster.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"engine.options.workers = {workers}: expected 1 or more")
        self._own = not ray.is_initialized()
        if self._own:
            try:
                ray.init(
                    address=address,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    num_cpus=None if address else max(workers or 1, os.cpu_count() or 1),
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ConfigError(
                    f"engine.options.address = {address!r}: no Ray cluster there ({reason})"
                ) from None
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self.workers = workers or int(there.get("GPU", 0) if gpus else there.get("CPU", 1)) or 1
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._made: tuple[object, list[Any]] | None = None

    def map(self, make: Callable[[], Callable[[Any], Any]], blocks: Iterable[Any]) -> Iterator[Any]:
        """The result for every block, in order.

        Raises:
            Llm4sbrError: raised by the work, or the connection to the cluster is lost.
        """
        actors = self._actors(make)
        waiting: deque[Any] = deque()
        try:
            for number, block in enumerate(blocks):
                waiting.append(actors[number % len(actors)].do.remote(block))
                if len(waiting) >= AHEAD * len(actors):
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())
        except RayTaskError as error:
            if isinstance(error.cause, Llm4sbrError):
                raise error.cause from None
            raise
        except RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise Llm4sbrError(
                f"the Ray cluster gave up ({reason}); finished work is kept, run again"
            ) from None

    def close(self) -> None:
        """Release the actors, and stop a cluster that was started here."""
        self._made = None
        if self._own and ray.is_initialized():
            ray.shutdown()

    def processes(self) -> list[int]:
        """Process ids of the workers, for tests and monitoring."""
        return ray.get([actor.process.remote() for actor in (self._made or (None, []))[1]])

    def _actors(self, make: Callable[[], Callable[[Any], Any]]) -> list[Any]:
        if self._made is None or self._made[0] is not make:
            actor: Any = (
                Worker  # the decorator makes it an actor class, but its type annotation does not say so
            )
            made = [actor.options(**self._resources).remote(make) for _ in range(self.workers)]
            self._made = make, made
        return self._made[1]
