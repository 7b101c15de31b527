"""Trains and evaluates one cell of an experiment, in whichever process it is asked to."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from llm4sbr import freshness, pipeline, stamps, store
from llm4sbr.config import Config, Settings, in_force, to_toml
from llm4sbr.errors import Llm4sbrError, TrainingError
from llm4sbr.experiments import sharing
from llm4sbr.progress import Advance, Progress
from llm4sbr.stages.train import TrainingJob, train_job
from llm4sbr.system import memory, signals
from llm4sbr.system.processes import Report

SHARES = {"train": 95, "evaluate": 5}
"""Of a cell's time, about, in hundredths."""


class Task(NamedTuple):
    """A cell to train and evaluate."""

    run: Path
    name: str
    settings: Settings
    runs: Sequence[Path]
    """Those of all cells."""
    fresh: bool
    """Each model in a process of its own."""


def settle(run: Path, chosen: Settings) -> Config:
    """The cell's configuration; what an earlier command chose for this run is forgotten."""
    _, config = in_force.configure(None, chosen)
    store.write_text(run / "config.toml", to_toml(chosen))
    return config


class _Relay(Progress):
    """Progress of a cell, told to whoever runs it: hundredths of the cell, and notes with none."""

    def __init__(self, report: Report) -> None:
        super().__init__(quiet=True)
        self.report = report

    def note(self, text: str) -> None:
        """Say it, unless it is that there is nothing to do."""
        if not text.endswith(": fresh"):
            self.report(0, text)

    @contextmanager
    def task(self, label: str, total: int, *, unit: str = "") -> Iterator[Advance]:
        """Tell every hundredth that is done."""
        done = told = 0

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal done, told
            done += n
            share = SHARES.get(label, 0) * done // max(total, 1)
            if share > told:
                self.report(share - told, note)
                told = share

        yield advance


def work(task: Task, report: Report) -> str:
    """Train and evaluate a cell; returns what went wrong, in one line."""
    try:
        config = settle(task.run, task.settings)
        others = [one for one in task.runs if one != task.run]
        linked = sharing.share_models(task.run, config, others)
        if linked:
            report(0, f"train: {linked} models were trained before, here or for another cell")
        if task.fresh:
            _train_apart(task.run, config, report)
        pipeline.execute(task.run, task.settings, progress=_Relay(report))
    except Exception as error:
        return line_of(error)
    return ""


def _train_apart(run: Path, config: Config, report: Report) -> None:
    """Train what is lacking, each model in a process that has done nothing before."""
    stamp = freshness.stamp_for(run, sharing.TRAIN, config)
    done = stamps.read_stamp(run / sharing.TRAIN.name)
    if done and done.fingerprint == stamp.fingerprint:
        return
    signals.interruptible()
    context = multiprocessing.get_context("spawn")
    for variant, folder in sharing.wanted(run, config, stamp):
        job = TrainingJob(run, folder, config, variant, int(folder.name.removeprefix("seed-")))
        with ProcessPoolExecutor(1, mp_context=context) as process:
            try:
                report(0, f"{variant}: {process.submit(_train_one, job).result()}")
            except BrokenProcessPool:
                raise TrainingError(f"the process that trained {variant} died; was memory short?") from None


def _train_one(job: TrainingJob) -> str:
    return train_job(job, lambda n, note: None)


def line_of(error: Exception) -> str:
    """What went wrong, in one line."""
    text = " ".join((memory.shortage(error) or str(error)).split())
    if memory.shortage(error):
        return text
    return text if isinstance(error, Llm4sbrError) else f"internal error: {type(error).__name__}: {text}"
