"""Requests that wait for the model are computed together, in batches of limited size and number."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llm4sbr.serving.server.batching import Batcher, PendingRequest, ScoredList, join
from llm4sbr.serving.server.http import Refusal
from llm4sbr.serving.server.settings import Settings


def job(*rows: list[int]) -> PendingRequest:
    longest = max(map(len, rows))
    items = np.array([row + [0] * (longest - len(row)) for row in rows])
    return PendingRequest(items, items > 0, np.ones((len(rows), 1), np.bool_))


def test_join_pads_to_the_longest():
    joined = join([job([1, 2]), job([3], [4, 5, 6])])
    assert joined.items.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert joined.mask.tolist() == (joined.items > 0).tolist()
    assert joined.exclude_seen.shape == (3, 1)


class Slow:
    """Computes when it is allowed to, and answers each session with its first item."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()

    def __call__(self, job: PendingRequest) -> ScoredList:
        assert self.go.wait(10)
        self.batches.append(job.rows)
        if (job.items == 13).any():
            raise ValueError("thirteen")
        return ScoredList(job.items[:, :1], job.items[:, :1].astype(np.float32))


def test_what_gathers_is_computed_together_and_comes_apart_again():
    slow, seen = Slow(), []

    async def main() -> list[ScoredList]:
        with ThreadPoolExecutor(1) as executor:
            settings = Settings(max_batch=4, queue=100)
            batcher = Batcher(slow, executor, settings, observe=lambda *told: seen.append(told))
            jobs = [job([1]), job([2, 9]), job([3], [4]), job([5], [6])]
            waiting = [asyncio.create_task(batcher.submit(one)) for one in jobs]
            await asyncio.sleep(0.05)
            assert batcher.rows == 5  # the first is being computed
            slow.go.set()
            return await asyncio.gather(*waiting)

    found = asyncio.run(main())
    assert [answer.ids[:, 0].tolist() for answer in found] == [[1], [2], [3, 4], [5, 6]]
    assert slow.batches == [1, 3, 2]
    assert [rows for rows, *_ in seen] == [1, 3, 2]


def test_a_full_queue_refuses_and_a_failure_is_told_to_its_batch_only():
    slow = Slow()

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(slow, executor, Settings(max_batch=2, queue=2), observe=lambda *_: None)
            first = asyncio.create_task(batcher.submit(job([1])))
            await asyncio.sleep(0.01)
            rest = [asyncio.create_task(batcher.submit(job([n]))) for n in (13, 3)]
            await asyncio.sleep(0.01)
            with pytest.raises(Refusal, match="2 sessions are waiting already") as caught:
                await batcher.submit(job([4]))
            assert caught.value.status == 429
            rest[1].cancel()
            slow.go.set()
            assert (await first).ids.tolist() == [[1]]
            with pytest.raises(ValueError, match="thirteen"):
                await rest[0]
            assert (await batcher.submit(job([7]))).ids.tolist() == [[7]]

    asyncio.run(main())


def test_a_lone_job_waits_for_company_no_longer_than_allowed():
    slow = Slow()
    slow.go.set()

    async def main() -> float:
        with ThreadPoolExecutor(1) as executor:
            settings = Settings(max_batch=2, max_delay=0.2)
            batcher = Batcher(slow, executor, settings, observe=lambda *_: None)
            await asyncio.gather(batcher.submit(job([1])), batcher.submit(job([2])))  # full: starts at once
            started = time.perf_counter()
            await batcher.submit(job([3]))
            return time.perf_counter() - started

    assert 0.19 <= asyncio.run(main()) < 2
    assert slow.batches == [2, 1]
