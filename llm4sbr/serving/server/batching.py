"""Sessions that come in at about the same time are computed together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr.serving.server.http import busy
from llm4sbr.serving.server.settings import Settings

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]


class Job(NamedTuple):
    """The sessions of one request."""

    items: Ids
    """int64 (B, T), right-padded with 0."""
    mask: Flags
    """bool (B, T)."""
    exclude_seen: Flags
    """bool (B, 1)."""
    intents: Floats | None = None
    """float32 (B, P, E); None if the model takes none."""

    @property
    def rows(self) -> int:
        """B."""
        return len(self.items)


class Answer(NamedTuple):
    """What the model says to one request."""

    ids: Ids
    """int64 (B, K), best first."""
    scores: Floats
    """float32 (B, K)."""


class _Waiting(NamedTuple):
    job: Job
    future: asyncio.Future[Answer]
    since: float


def join(jobs: Sequence[Job]) -> Job:
    """The jobs as one, padded to the longest session."""
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
    return Job(items, mask, exclude_seen, np.concatenate(intents) if intents else None)


class Batcher:
    """Computes jobs in batches, one batch at a time, in the executor's thread.

    While a batch is being computed the next one gathers. A lone job waits for company no longer than
    `Settings.max_delay`. Its methods are called from the event loop's thread only.

    Args:
        compute: runs the model.
        executor: has one thread.
        observe: is told the rows, the oldest job's wait and the computing time (seconds) of every batch.
    """

    def __init__(
        self,
        compute: Callable[[Job], Answer],
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
        self._queue: deque[_Waiting] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None

    async def submit(self, job: Job) -> Answer:
        """The answer to a job.

        Raises:
            Refusal: 429, too many sessions wait already.
        """
        if self.rows and self.rows + job.rows > self.settings.queue:  # an empty queue takes any job
            raise busy(429, f"{self.rows} sessions are waiting already; try again")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(job, future, time.perf_counter()))
        self.rows += job.rows
        self._consider()
        return await future

    def _consider(self) -> None:
        """Start a batch if it is time to."""
        if self._busy or not self._queue:
            return
        left = self._queue[0].since + self.settings.max_delay - time.perf_counter()
        if left <= 0 or self.rows >= self.settings.max_batch:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._busy and self._queue:
            self._start()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = self._take()
        wait, started = time.perf_counter() - batch[0].since, time.perf_counter()
        self._busy = True
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self.executor, self._run, [one.job for one in batch])

        def done(finished: asyncio.Future[list[Answer]]) -> None:
            self._busy = False
            self.observe(sum(one.job.rows for one in batch), wait, time.perf_counter() - started)
            self._consider()
            _deliver(batch, finished)

        running.add_done_callback(done)

    def _take(self) -> list[_Waiting]:
        """The next jobs, up to `max_batch` sessions."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue and (not batch or rows + self._queue[0].job.rows <= self.settings.max_batch):
            batch.append(self._queue.popleft())
            rows += batch[-1].job.rows
        self.rows -= rows
        return batch

    def _run(self, jobs: list[Job]) -> list[Answer]:
        ids, scores = self.compute(join(jobs))
        ends = np.cumsum([job.rows for job in jobs])
        return [
            Answer(ids[end - job.rows : end], scores[end - job.rows : end])
            for job, end in zip(jobs, ends, strict=True)
        ]


def _deliver(batch: list[_Waiting], finished: asyncio.Future[list[Answer]]) -> None:
    error = finished.exception()
    for place, one in enumerate(batch):
        if one.future.done():  # its request was cancelled
            continue
        if error is not None:
            one.future.set_exception(error)
        else:
            one.future.set_result(finished.result()[place])
