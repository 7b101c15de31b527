"""Stage `train`: trains the plain backbone, and one model per source of intents, for every seed.

The variants differ only in their intents: samples, seeds and settings are the same. `plain` is the backbone
alone, `item-item` the same with counts, which takes no training of its own; `llm` has the LLM's intents; the
controls have their own; `none` is the fused model without any intents.
"""

from __future__ import annotations

import os
from pathlib import Path

from llm4sbr import stamps
from llm4sbr.config import Config
from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.errors import TrainingError
from llm4sbr.freshness import part_stamp
from llm4sbr.intents import verify_all
from llm4sbr.progress import Progress
from llm4sbr.stamps import Attempt, Stamp
from llm4sbr.system.processes import run as run_jobs
from llm4sbr.training.job import TrainingJob, follow, selection, train_job, try_out, variants
from llm4sbr.training.start import Start
from llm4sbr.training.team import current
from llm4sbr.training.trained import write_models

__all__ = [
    "MOST_WORKERS",
    "Expected",
    "TrainingJob",
    "follow",
    "job_of",
    "models",
    "train",
    "train_job",
    "variants",
]

MOST_WORKERS = 4
"""Default maximum number of processes."""


class Expected:
    """Estimates the total number of training samples; early stopping may end models earlier.

    Args:
        jobs: models to train.
        most: samples of a model without early stopping.
    """

    def __init__(self, jobs: int, most: int) -> None:
        self.done = [0] * jobs
        self.most = most
        self.ended: set[int] = set()

    def end(self, index: int) -> None:
        """Record that this model is finished."""
        self.ended.add(index)

    @property
    def total(self) -> int:
        """Actual samples of finished models, and their average for the others."""
        ended = [self.done[index] for index in self.ended]
        usual = sum(ended) // len(ended) if ended else self.most
        rest = [max(usual, done) for index, done in enumerate(self.done) if index not in self.ended]
        return sum(ended) + sum(rest)


def train(run: Path, out: Path, config: Config, progress: Progress, attempt: Attempt | None = None) -> None:
    """Write `<variant>/seed-<k>/` with a trained model each, and `models.json`, which names them.

    Models that are there already are kept, those that an interrupted attempt began go on from their last
    epoch.

    Args:
        run: has `prepare` and `localize`.
        out: the folder to write.
        config: all settings.
        progress: shows all models that are being trained.
        attempt: the existing models; called when all checks have passed.

    Raises:
        TrainingError: nothing to train on, or a loss that is not a number.
        InputError: the models that the run starts from are of other components or of another data set.
        StoreError: a file is missing or belongs to another catalogue.
        RegistryError: a component is unknown.
    """
    attempt = attempt or Attempt.alone(out, "train")
    prepared = load(run / "prepare")
    samples = len(prepared.samples["train"].key)
    if not samples:
        raise TrainingError(f"{run / 'prepare'}: no training samples; use more sessions or smaller data.test")
    start = Start.of(run)
    if start:
        start.check(run, config, prepared)
    wanted = models(run, config, attempt)
    missing = {name: stamp for name, stamp in wanted.items() if not attempt.has(name, stamp)}
    jobs = sorted((job_of(run, out, name, config) for name in missing), key=lambda job: bool(job.plain))
    if jobs:  # do not train on damaged data
        verify_all(run / "localize", catalogue=catalogue_hash(prepared.catalogue))
        try_out(jobs, prepared)
    attempt.begin()
    for name, stamp in missing.items():
        stamps.begin_part(out / name, stamp)
    if start and missing:
        known = [name for name in missing if name in start.record["models"]]
        progress.note(f"train: {len(known)} of {len(missing)} models start from those of {start.origin}")
    if selection(prepared)[1] == "none":
        progress.note(
            "train: no validation samples, so the last epoch is kept; raise data.valid to have some"
        )
    if len(jobs) < len(wanted):
        progress.note(f"train: {len(wanted) - len(jobs)} of {len(wanted)} models are there already")
    team = current()
    if team.size > 1:
        progress.note(f"train: {team.size} processes share every batch, one model after the other")
    first = sum(job.plain is None for job in jobs)  # the others are plain models, to which counts are added
    expected = Expected(first, config.train.epochs * samples)
    notes: dict[int, str] = {}

    def tell(job: TrainingJob, result: str) -> None:
        progress.note(f"{job.variant}, seed {job.seed}: {result}")

    with progress.task("train", expected.total, unit="samples", at_most=True) as advance:

        def going(index: int, n: int, note: str) -> None:
            if note:
                notes[index] = f"{jobs[index].variant}/{jobs[index].seed} {note}"
            expected.done[index] += n
            advance(n, "; ".join(notes.values()))

        def done(index: int, result: str) -> None:
            notes.pop(index, None)
            expected.end(index)
            advance(0, total=expected.total)
            tell(jobs[index], result)

        run_jobs(train_job, jobs[:first], workers=_workers(config), progress=going, done=done)
        run_jobs(
            train_job,
            jobs[first:],
            workers=_workers(config),
            progress=lambda *_: None,
            done=lambda index, result: tell(jobs[first + index], result),
        )
    write_models(out, list(wanted))


def models(run: Path, config: Config, attempt: Attempt) -> dict[str, Stamp]:
    """The models that the settings ask for: `<variant>/seed-<k>` -> what it depends on."""
    seeds = range(config.train.seed, config.train.seed + config.train.seeds)
    names = [f"{variant}/seed-{seed}" for seed in seeds for variant in variants(run, config)]
    return {name: part_stamp(run, name, attempt) for name in names}


def job_of(run: Path, out: Path, name: str, config: Config) -> TrainingJob:
    """The job that trains one of `models`."""
    variant, _, seed = name.partition("/seed-")
    return TrainingJob(run, out / name, config, variant, int(seed))


def _workers(config: Config) -> int:
    if current().size > 1:
        return 1
    return config.train.workers or min(os.cpu_count() or 1, MOST_WORKERS)
