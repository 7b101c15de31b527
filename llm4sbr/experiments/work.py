"""Trains and evaluates one cell of an experiment, in this process or a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from llm4sbr import freshness, pipeline, stamps, store
from llm4sbr.config import Config, Settings, in_force, to_toml
from llm4sbr.errors import Llm4sbrError
from llm4sbr.experiments import sharing
from llm4sbr.progress import Advance, Progress
from llm4sbr.stages.train import job_of, train_job
from llm4sbr.system import memory, processes
from llm4sbr.system.processes import Report

SHARES = {"train": 95, "evaluate": 5}
"""Approximate share of a cell's time, in percent."""


class Task(NamedTuple):
    """A cell to train and evaluate."""

    run: Path
    name: str
    settings: Settings
    runs: Sequence[Path]
    """Run folders of all cells."""
    fresh: bool
    """Whether each model is trained in a new process."""


def settle(run: Path, chosen: Settings) -> Config:
    """The cell's configuration; settings saved by an earlier command are discarded."""
    config = in_force.configure(None, chosen)
    store.write_text(run / "config.toml", to_toml(chosen))
    return config


class _Relay(Progress):
    """Reports a cell's progress, in percent, to the process that runs the experiment."""

    def __init__(self, report: Report) -> None:
        super().__init__(quiet=True)
        self.report = report

    def note(self, text: str) -> None:
        """Pass a note on, unless it says that a stage is up to date."""
        if not text.endswith(": fresh"):
            self.report(0, text)

    @contextmanager
    def task(
        self, label: str, total: int, *, unit: str = "", parts: int = 1, at_most: bool = False
    ) -> Iterator[Advance]:
        """Report every percent that is done."""
        done = reported = 0

        expected = total

        def advance(n: int = 1, note: str = "", total: int | None = None) -> None:
            nonlocal done, reported, expected
            done += n
            expected = expected if total is None else total
            share = SHARES.get(label, 0) * min(done, expected) // max(expected, 1)
            if share > reported:
                self.report(share - reported, note)
                reported = share

        yield advance


def work(task: Task, report: Report) -> str:
    """Train and evaluate a cell; returns the error as one line, or "" if there was none."""
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
    """Train the missing models, each in a new process."""
    stamp = freshness.stamp_for(run, freshness.TRAIN, config)
    done = stamps.read_stamp(run / freshness.TRAIN.name)
    if done and done.fingerprint == stamp.fingerprint:
        return
    out, missing = sharing.missing_models(run, config)
    jobs = [job_of(run, out, name, config) for name in missing]
    for name, wanted in missing.items():
        stamps.begin_part(out / name, wanted)

    def done_with(index: int, result: str) -> None:
        report(0, f"{jobs[index].variant}: {result}")

    processes.run(train_job, jobs, workers=1, fresh=True, progress=lambda *_: None, done=done_with)


def line_of(error: Exception) -> str:
    """An error as one line."""
    text = " ".join((memory.shortage(error) or str(error)).split())
    if memory.shortage(error):
        return text
    return text if isinstance(error, Llm4sbrError) else f"internal error: {type(error).__name__}: {text}"
