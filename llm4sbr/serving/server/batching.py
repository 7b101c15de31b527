"""Micro-batching: sessions that arrive at about the same time are computed together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr.serving.answering import stacked
from llm4sbr.serving.server.http import busy
from llm4sbr.serving.server.settings import Settings

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]

MOST_ALLOWED = 2**24
"""Maximum number of values that say what a batch's sessions allow, 64 MB."""


class PendingRequest(NamedTuple):
    """The sessions of one request."""

    items: Ids
    """int64 (B, T), right-padded with 0."""
    mask: Flags
    """bool (B, T)."""
    exclude_seen: Flags
    """bool (B, 1)."""
    intents: Floats | None = None
    """float32 (B, P, E); None if the model takes none."""
    tell_intents: bool = False
    """Whether the graph's own intents are wanted, too."""
    allowed: Floats | None = None
    """float32 (B or 1, N), 0 for items that may be in the list, else minus infinity; None if all may."""

    @property
    def rows(self) -> int:
        """B."""
        return len(self.items)


class ScoredList(NamedTuple):
    """The model's result for one request."""

    ids: Ids
    """int64 (B, K), best first."""
    scores: Floats
    """float32 (B, K)."""
    intents: Floats | None = None
    """The graph's own, float32 (B, P, E), if they are wanted."""

    def rows(self, part: slice) -> ScoredList:
        """The result for some of the sessions."""
        return ScoredList(*(None if one is None else one[part] for one in self))  # type: ignore[arg-type]


class _Waiting(NamedTuple):
    job: PendingRequest
    future: asyncio.Future[ScoredList]
    since: float


def join(jobs: Sequence[PendingRequest]) -> PendingRequest:
    """Several jobs as one batch, padded to the longest session."""
    if len(jobs) == 1:
        return jobs[0]
    rows, length = sum(job.rows for job in jobs), max(job.items.shape[1] for job in jobs)
    items, mask = np.zeros((rows, length), np.int64), np.zeros((rows, length), np.bool_)
    at = 0
    for job in jobs:
        items[at : at + job.rows, : job.items.shape[1]] = job.items
        mask[at : at + job.rows, : job.items.shape[1]] = job.mask
        at += job.rows
    exclude_seen = np.concatenate([job.exclude_seen for job in jobs])
    intents = [job.intents for job in jobs if job.intents is not None]
    tell = any(job.tell_intents for job in jobs)
    told = np.concatenate(intents) if intents else None
    allowed = stacked([(job.allowed, job.rows) for job in jobs])
    return PendingRequest(items, mask, exclude_seen, told, tell, allowed)


def parts(jobs: Sequence[PendingRequest]) -> list[list[PendingRequest]]:
    """The jobs in their order, divided so that different filters take no more than `MOST_ALLOWED` at once."""
    size = max((one.allowed.shape[1] for one in jobs if one.allowed is not None), default=0)
    if len({id(job.allowed) for job in jobs}) == 1:
        return [list(jobs)]
    found: list[list[PendingRequest]] = []
    for job in jobs:
        if found and (sum(one.rows for one in found[-1]) + job.rows) * size <= MOST_ALLOWED:
            found[-1].append(job)
        else:
            found.append([job])
    return found


class Batcher:
    """Computes jobs in batches, one batch at a time, in the executor's thread.

    While a batch is being computed the next one gathers; the thread takes it by itself, without asking the
    event loop, which may be busy. A lone job waits for company no longer than `Settings.max_delay`. `submit`
    is called from the event loop's thread only.

    Args:
        compute: runs the model.
        executor: has one thread.
        observe: called with rows, the oldest job's wait, and the computing time (seconds) of every batch.
    """

    def __init__(
        self,
        compute: Callable[[PendingRequest], ScoredList],
        executor: Executor,
        settings: Settings,
        *,
        observe: Callable[[int, float, float], None],
    ) -> None:
        self.compute = compute
        self.executor = executor
        self.settings = settings
        self.observe = observe
        self.rows = 0
        """Sessions that wait."""
        self._lock = Lock()  # the following fields, and `rows`, are changed by both threads
        self._queue: deque[_Waiting] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None  # the event loop's own

    async def submit(self, job: PendingRequest) -> ScoredList:
        """The answer to a job.

        Raises:
            Refusal: 429, too many sessions wait already.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ScoredList] = loop.create_future()
        with self._lock:
            if self.rows and self.rows + job.rows > self.settings.queue:  # an empty queue accepts any job
                raise busy(429, f"{self.rows} sessions are waiting already; try again")
            self._queue.append(_Waiting(job, future, time.perf_counter()))
            self.rows += job.rows
        self._consider(loop)
        return await future

    def _consider(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread if a batch is due, or a timer for when it will be."""
        with self._lock:
            if self._busy or not self._queue:
                return
            left = self._left()
            self._busy = left <= 0
        if left > 0:
            self._timer = self._timer or loop.call_later(left, self._ring, loop)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.executor.submit(self._drain, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._consider(loop)

    def _left(self) -> float:
        """Seconds until the next batch is due; the queue is not empty."""
        if self.rows >= self.settings.max_batch or not self.settings.max_delay:
            return 0.0
        return self._queue[0].since + self.settings.max_delay - time.perf_counter()

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute batches until none is due; runs in the executor's thread."""
        while batch := self._take(loop):
            started = time.perf_counter()
            try:
                found: list[ScoredList] | Exception = self._run([one.job for one in batch])
            except Exception as error:  # reported to the requests of this batch only
                found = error
            seconds = time.perf_counter() - started
            loop.call_soon_threadsafe(self._done, loop, batch, found, started - batch[0].since, seconds)

    def _take(self, loop: asyncio.AbstractEventLoop) -> list[_Waiting]:
        """The next jobs, up to `max_batch` sessions; none if no batch is due."""
        batch: list[_Waiting] = []
        rows = 0
        with self._lock:
            if not self._queue or self._left() > 0:
                self._busy = False
                if self._queue:  # arrived while this thread was busy, so there is no timer yet
                    loop.call_soon_threadsafe(self._consider, loop)
                return batch
            while self._queue and (not batch or rows + self._queue[0].job.rows <= self.settings.max_batch):
                batch.append(self._queue.popleft())
                rows += batch[-1].job.rows
            self.rows -= rows
        return batch

    def _done(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting],
        found: list[ScoredList] | Exception,
        wait: float,
        seconds: float,
    ) -> None:
        self.observe(sum(one.job.rows for one in batch), wait, seconds)
        self._consider(loop)
        _deliver(batch, found)

    def _run(self, jobs: list[PendingRequest]) -> list[ScoredList]:
        answers = []
        for part in parts(jobs):
            found, at = self.compute(join(part)), 0
            for job in part:
                answers.append(found.rows(slice(at, at + job.rows)))
                at += job.rows
        return answers


def _deliver(batch: list[_Waiting], found: list[ScoredList] | Exception) -> None:
    for place, one in enumerate(batch):
        if one.future.done():  # its request was cancelled
            continue
        if isinstance(found, Exception):
            one.future.set_exception(found)
        else:
            one.future.set_result(found[place])
