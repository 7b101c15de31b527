"""One worker of a search: gets settings from the study, trains a model with them, and reports its metric.

Several workers communicate only through the study's journal. If a worker is stopped, its trial stays in the
state "running", with a checkpoint of its last epoch, and the next command continues it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from llm4sbr import stamps
from llm4sbr.config import Config, build
from llm4sbr.config.space import Space
from llm4sbr.errors import Llm4sbrError
from llm4sbr.freshness import TRAIN, part_stamp, stamp_for
from llm4sbr.stages.train import TrainingJob, train_job
from llm4sbr.system.processes import Report
from llm4sbr.training import SELECT_BY
from llm4sbr.training.checkpoint import LOG
from llm4sbr.tuning import study as studies
from llm4sbr.tuning.space import with_values

EPOCH_SECONDS = "epoch_seconds"
"""Attribute of a study: seconds per epoch, noted when the time was too short, for the error message."""


class Search(NamedTuple):
    """What a worker needs; the same for all workers of a search, except for the worker's number."""

    run: Path
    folder: Path
    settings: Mapping[str, Any]
    """All settings of the run."""
    variant: str
    seed: int
    """Seed of all models."""
    space: Space
    study: str
    """Name of the study in the journal."""
    trials: int
    """Total number of trials to make."""
    samples: int
    """Number of training samples, which make one epoch."""
    until: float | None = None
    """When to stop, in seconds since 1970; None for no limit."""
    seconds: float | None = None
    """Total time of the search; None for no limit."""
    worker: int = 0
    """Number of this worker."""


class Pruned(Exception):
    """The trial was stopped early, because it is worse than other trials were at the same epoch."""


class OutOfTime(Exception):
    """The time of the search is used up."""


class Watch:
    """Follows the training of one trial: reports the metric of each epoch, and stops a bad trial early.

    Args:
        search: the search.
        study: its study.
        trial: the trial that is being trained.
        log: the file to which training writes a line per epoch.
        report: called with the progress.
    """

    def __init__(
        self, search: Search, study: optuna.Study, trial: optuna.Trial, log: Path, report: Report
    ) -> None:
        self.search, self.study, self.trial, self.log, self.report = search, study, trial, log, report
        self.config = build(dict(search.settings))
        self.epochs: list[dict[str, Any]] = []
        self.started, self.samples = time.monotonic(), 0

    def __call__(self, n: int, note: str) -> None:
        """Training calls this after every `n` samples, with a note if they complete an epoch."""
        self.samples += n
        if note:
            self._epoch_done()
            self.report(0, f"trial {self.trial.number}: {note}")
        self.in_time()

    def in_time(self) -> None:
        """Raise `OutOfTime` if the time is used up."""
        if self.search.until is not None and time.time() > self.search.until:
            if self.samples:
                pace = (time.monotonic() - self.started) / self.samples
                self._too_slow(pace * self.search.samples)
            raise OutOfTime

    def _epoch_done(self) -> None:
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        for line in lines[len(self.epochs) :]:
            self.trial.report(line["valid"][SELECT_BY], line["epoch"])
        self.epochs = lines
        train = self.config.train
        shortest = min(train.epochs, train.patience + 1) * lines[-1]["seconds"]
        if self.search.seconds is not None and shortest > self.search.seconds:
            self._too_slow(lines[-1]["seconds"])
            raise OutOfTime
        if self.trial.should_prune():
            raise Pruned

    def _too_slow(self, seconds: float) -> None:
        self.study.set_user_attr(EPOCH_SECONDS, round(seconds, 2))

    @property
    def best(self) -> dict[str, Any]:
        """The log line of the best epoch."""
        return max(self.epochs, key=lambda line: float(line["valid"][SELECT_BY]))


def search(search: Search, report: Report) -> None:
    """Make trials until there are enough or the time is used up.

    Args:
        search: the search.
        report: called with 1 and a line of text after each trial, and with 0 after each epoch.
    """
    study = studies.open_study(search.folder, search.study, seed=search.worker)
    wanted = studies.distributions(search.space)
    while search.until is None or time.time() < search.until:
        if len(studies.counted(study)) + len(studies.running(study)) >= search.trials:
            return
        trial = study.ask(wanted)
        ahead = [one for one in studies.running(study) if one.number < trial.number]
        if len(studies.counted(study)) + len(ahead) >= search.trials:  # another worker was faster
            study.tell(trial, state=TrialState.FAIL)
            return
        try:
            report(1, _make(search, study, trial, report))
        except OutOfTime:
            return


def _make(search: Search, study: optuna.Study, trial: optuna.Trial, report: Report) -> str:
    """Train a trial's model and record the result; returns a line about it."""
    found = f"trial {trial.number}: {_words(studies.values(trial))}"
    if known := _same(study, trial):
        for epoch, value in known.intermediate_values.items():
            trial.report(value, epoch)
        trial.set_user_attr(studies.SAME_AS, known.number)
        pruned = known.state is TrialState.PRUNED
        study.tell(trial, None if pruned else known.value, state=known.state)
        return f"{found}: as trial {known.number}"
    folder = search.folder / studies.place(trial)
    watch = Watch(search, study, trial, folder / LOG, report)
    try:
        watch.in_time()
        _train(search, studies.values(trial), folder, watch)
    except Pruned:
        study.tell(trial, state=TrialState.PRUNED)
        found += f": pruned after {len(watch.epochs)} epochs"
    except Llm4sbrError as error:
        if not studies.counted(study):  # the first trial has the run's own values, so these are not the cause
            raise
        trial.set_user_attr(studies.ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
        found += f": failed, {error}"
    else:
        value = watch.best["valid"][SELECT_BY]
        trial.set_user_attr("best_epoch", watch.best["epoch"])
        trial.set_user_attr("training_seconds", round(sum(line["seconds"] for line in watch.epochs), 2))
        study.tell(trial, value)
        found += f": {SELECT_BY} {100 * value:.2f}%"
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _train(search: Search, values: Mapping[str, Any], folder: Path, watch: Watch) -> None:
    config = with_values(build(dict(search.settings)), values)
    stamps.begin_part(folder, trial_stamp(search.run, search.variant, search.seed, config))
    train_job(TrainingJob(search.run, folder, config, search.variant, search.seed, kept=False), watch)


def trial_stamp(run: Path, variant: str, seed: int, config: Config) -> stamps.Stamp:
    """The stamp of a trial's model; it has the same parts as that of a trained model of the run."""
    nowhere = run / "tune" / "none"  # a folder that does not exist, so that no earlier stamp is read
    attempt = stamps.Attempt(nowhere, stamp_for(run, TRAIN, config))
    return part_stamp(run, f"{variant}/seed-{seed}", attempt)


def _same(study: optuna.Study, trial: optuna.Trial) -> optuna.trial.FrozenTrial | None:
    """An earlier finished or pruned trial with the same values, if there is one."""
    done = (one for one in studies.counted(study) if one.state is not TrialState.FAIL)
    return next((one for one in done if studies.values(one) == studies.values(trial)), None)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())
