"""Measures a training by its reports."""

from __future__ import annotations

import time

import torch

from llm4sbr.system import memory


class Throughput:
    """Samples per second between the first and the last report, and the memory used."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.samples = 0
        self.anonymous = 0
        memory.reset_peak()

    def __call__(self, samples: int, note: str) -> None:
        """Called after every batch; the first one is warm-up."""
        if samples:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # what was asked of the device is done, not only queued
            self.samples += samples if self.marks else 0
            self.marks.append((time.perf_counter(), time.process_time()))
            self.anonymous = max(self.anonymous, memory.anonymous())

    def found(self) -> dict[str, float]:
        """`wall` and `cpu` in samples/s; `resident` and `anonymous`, peaks in bytes."""
        first, last = self.marks[0], self.marks[-1]
        rates = {name: self.samples / (last[i] - first[i]) for i, name in enumerate(("wall", "cpu"))}
        return rates | {"resident": memory.peak(), "anonymous": self.anonymous, "samples": self.samples}
