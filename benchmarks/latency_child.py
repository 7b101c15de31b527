"""Child process of `latency.py`: opens one engine and times its calls, or exports one model."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engines import Answer, SessionBatch, batches, open_engine
from processes import Child, answer_for
from serving import lengths

from llm4sbr.system import memory

VARIED = 64
"""Number of different batches, besides the shortest and the longest."""


class Timer:
    """Times calls of an engine, by batch size.

    Args:
        answer: the engine.
        items: N.
        variant: `plain` or `intents`.
    """

    def __init__(self, answer: Answer, *, items: int, variant: str) -> None:
        self.answer, self.items, self.variant = answer, items, variant
        self.asked: dict[int, Iterator[SessionBatch]] = {}
        self.lists: dict[int, list[list[int]]] = {}

    def __call__(self, batch: int, calls: int, seconds: float) -> dict[str, Any]:
        """Milliseconds of some calls, peak memory since the first call of this size, and some lists."""
        if batch not in self.asked:
            self._begin(batch)
        found = timed(self.answer, self.asked[batch], calls=calls, seconds=seconds)
        return found | {"peak": memory.peak(), "lists": self.lists[batch]}

    def _begin(self, size: int) -> None:
        """Warm up with the shortest sessions, the longest, and others: compilers specialise on all three."""
        made = batches(self.items, size, lengths(None, 0)[0], variant=self.variant, count=VARIED)
        self.asked[size] = _forever(made)
        memory.reset_peak()
        self.lists[size] = [self.answer(next(self.asked[size])).tolist() for _ in range(3)][-1]


def timed(
    answer: Answer, asked: Iterator[SessionBatch], *, calls: int, seconds: float
) -> dict[str, list[float]]:
    """`wall` and `cpu`, milliseconds per call: up to `calls` calls within the time, but at least two."""
    wall: list[float] = []
    cpu: list[float] = []
    began = time.perf_counter()
    while len(wall) < calls and (len(wall) < 2 or time.perf_counter() - began < seconds):
        batch = next(asked)
        spent, start = time.process_time(), time.perf_counter()
        answer(batch)
        wall.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - spent))
    return {"wall": wall, "cpu": cpu}


def _forever(every: Sequence[SessionBatch]) -> Iterator[SessionBatch]:
    while True:
        yield from every


def export(folder: Path, **options: Any) -> None:
    """Write an artefact in a new process; `options` are those of `write_artefact`."""
    with Child(__file__, {"export": str(folder)} | options, threads=os.cpu_count() or 1):
        pass


def main(task: dict[str, Any]) -> None:
    """Run the task given on the command line."""
    if "export" in task:
        from synthetic import write_artefact

        write_artefact(Path(task.pop("export")), **task)
        answer_for({}, lambda: {})
        return
    began = time.perf_counter()
    answer = open_engine(folder=Path(task.pop("folder")), **task)
    ready = {"load_seconds": time.perf_counter() - began, "load_peak": memory.peak()}
    answer_for(ready, Timer(answer, items=task["items"], variant=task["variant"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[2]))
