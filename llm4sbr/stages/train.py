"""Stage `train`: the plain backbone, and one model per source of intents, for every seed.

The variants differ in nothing but the intents: same samples, same seeds, same settings. `plain` is the
backbone alone; `llm` has the LLM's intents; the controls have those of a stand-in; `none` is the fused
model that never sees an intent.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from llm4sbr import registry
from llm4sbr.config import Config, build, to_settings
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import StoreError, TrainingError
from llm4sbr.evaluation.comparison import ALONE, ITEM_ITEM, PLAIN
from llm4sbr.evaluation.ranking import SampleIntents
from llm4sbr.fusion.item_item import CrossFit
from llm4sbr.fusion.model import Recipe, needs_catalogue
from llm4sbr.fusion.saved import RECORD
from llm4sbr.intents import IntentStore, verify_all
from llm4sbr.progress import Progress
from llm4sbr.protocols import Horizon, Perspective, Samples
from llm4sbr.store import read_json, read_tensors
from llm4sbr.system.processes import Report
from llm4sbr.system.processes import run as run_jobs
from llm4sbr.training.cross_fit import cross_fit
from llm4sbr.training.team import Team, current
from llm4sbr.training.trainer import Material, train_model

MOST_WORKERS = 4
"""Processes used by default, at most."""


class TrainingJob(NamedTuple):
    """One model to train."""

    run: Path
    folder: Path
    config: Config
    variant: str
    seed: int

    def as_text(self) -> str:
        """JSON that `from_text` reads."""
        run, folder = str(self.run.absolute()), str(self.folder.absolute())
        return json.dumps([run, folder, to_settings(self.config), self.variant, self.seed])

    @classmethod
    def from_text(cls, text: str) -> TrainingJob:
        """The job of an `as_text`."""
        run, folder, settings, variant, seed = json.loads(text)
        return cls(Path(run), Path(folder), build(settings), variant, seed)


class Expected:
    """How many samples all models will have been trained on: early stopping may end each of them earlier.

    Args:
        jobs: models to train.
        most: samples of one that is never stopped.
    """

    def __init__(self, jobs: int, most: int) -> None:
        self.done = [0] * jobs
        self.most = most
        self.ended: set[int] = set()

    def end(self, index: int) -> None:
        """This model is finished."""
        self.ended.add(index)

    @property
    def total(self) -> int:
        """Those that are finished as they were, the others as long as these on average."""
        ended = [self.done[index] for index in self.ended]
        usual = sum(ended) // len(ended) if ended else self.most
        rest = [max(usual, done) for index, done in enumerate(self.done) if index not in self.ended]
        return sum(ended) + sum(rest)


def train(run: Path, out: Path, config: Config, progress: Progress) -> None:
    """Write `<variant>/seed-<k>/` with a trained model each; see `variants`.

    Models that an interrupted attempt finished are kept, those it began go on from their last epoch.

    Args:
        run: has `prepare` and `localize`.
        out: the folder to write.
        config: all settings.
        progress: shows all models that are being trained.

    Raises:
        TrainingError: nothing to train on, or a loss that is not a number.
        StoreError: a file is missing or belongs to another catalogue.
        RegistryError: a component is unknown.
    """
    prepared = load(run / "prepare")
    samples = len(prepared.samples["train"].key)
    if not samples:
        raise TrainingError(f"{run / 'prepare'}: no training samples; use more sessions or smaller data.test")
    if _selection(prepared)[1] == "none":
        progress.note("train: no validation samples, so the last epoch is kept; a larger data.valid mends it")
    seeds = range(config.train.seed, config.train.seed + config.train.seeds)
    every = [
        TrainingJob(run, out / variant / f"seed-{seed}", config, variant, seed)
        for seed in seeds
        for variant in variants(run, config)
    ]
    jobs = [job for job in every if not _finished(job.folder)]
    if jobs:  # a damaged byte must not be trained on
        verify_all(run / "localize", catalogue=catalogue_hash(prepared.catalogue))
    if len(jobs) < len(every):
        progress.note(f"train: {len(every) - len(jobs)} of {len(every)} models are there already")
    team = current()
    if team.size > 1:
        progress.note(f"train: {team.size} processes share every batch, one model after the other")
    expected = Expected(len(jobs), config.train.epochs * samples)
    notes: dict[int, str] = {}
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
            progress.note(f"{jobs[index].variant}, seed {jobs[index].seed}: {result}")

        run_jobs(train_job, jobs, workers=_workers(config), progress=going, done=done)


def variants(run: Path, config: Config) -> list[str]:
    """What is trained, in the table's order: `ALONE`, a variant per source of intents, `none`."""
    found = sorted(path.parent.name for path in (run / "localize").glob("*/manifest.json"))
    order = [name for name in ("llm", *config.infer.controls) if name in found]
    sources = order + [name for name in found if name not in order]
    alone = [PLAIN, ITEM_ITEM] if config.train.neighbours else [PLAIN]
    plain = alone if config.train.plain or not sources else []
    return plain + sources + (["none"] if sources and "none" in config.infer.controls else [])


def train_job(job: TrainingJob, report: Report) -> str:
    """Train one model; runs in a process of its own where several are trained side by side."""
    team = current()
    team.call(job.as_text())
    return _train(job, report, team)


def follow(team: Team) -> int:
    """Help rank 0 with every model that it trains, silently, until it is done; returns the exit code."""
    try:
        while text := team.awaited():
            _train(TrainingJob.from_text(text), lambda n, note: None, team)
    except Exception as error:  # of whatever kind: rank 0 says it
        return team.failed(error)
    return 0


def _train(job: TrainingJob, report: Report, team: Team) -> str:
    prepared = _prepared(job.run / "prepare")
    catalogue = catalogue_hash(prepared.catalogue)
    intents = _intents(job)
    facts = {"variant": job.variant, "llm": job.config.infer.llm if job.variant == "llm" else None}
    recipe = _recipe(job, prepared, intents)
    material = _material(job, prepared, catalogue, None if job.variant == "none" else intents)
    if needs_catalogue(recipe):
        material = material._replace(titles=_titles(job, recipe))
    if recipe.neighbours:
        found = _item_item(job.run / "prepare", recipe.neighbours)
        material = material._replace(item_item=found)
    return train_model(
        job.folder,
        recipe,
        material,
        job.config.train,
        seed=job.seed,
        report=report,
        facts=facts,
        team=team,
    )


@lru_cache(maxsize=1)
def _prepared(folder: Path) -> Prepared:
    """The run's data, read once per process."""
    return load(folder)


@lru_cache(maxsize=1)
def _item_item(folder: Path, neighbours: int) -> CrossFit:
    """The item-item model of the run's training samples, fitted once per process."""
    prepared = _prepared(folder)
    return cross_fit(
        prepared.sessions, prepared.samples["train"], prepared.catalogue.size, neighbours=neighbours
    )


def _intents(job: TrainingJob) -> IntentStore | None:
    """The variant's intents; `none` gets those of another variant, for their shape only."""
    if job.variant in ALONE:
        return None
    source = job.variant
    if source == "none":
        source = next(name for name in variants(job.run, job.config) if name not in (*ALONE, "none"))
    folder = job.run / "localize" / source
    intents = IntentStore.open(folder)
    if not len(intents):
        raise StoreError(
            f"{folder}: no sample has an answer; raise infer.budget, or train with infer.llm=none"
        )
    return intents


def _titles(job: TrainingJob, recipe: Recipe) -> Tensor:
    """The catalogue's text vectors, float32 (N, E)."""
    path = job.run / "localize" / "items.safetensors"
    titles = read_tensors(path).get("items", torch.zeros(0))
    expected = (recipe.num_items, recipe.text_dim)
    if titles.shape != expected:
        raise StoreError(
            f"{path}: items {tuple(titles.shape)}, catalogue and intents need {expected}; run localize again"
        )
    return titles


def _recipe(job: TrainingJob, prepared: Prepared, intents: IntentStore | None) -> Recipe:
    settings = job.config.train
    recipe = Recipe(prepared.catalogue.size, settings.dim, settings.backbone, settings.options)
    if job.variant != PLAIN:
        recipe = recipe._replace(neighbours=settings.neighbours)
    if intents is None:
        return recipe
    names = tuple(intents.perspectives)
    return recipe._replace(
        fuser=settings.fuser,
        fuser_options=settings.fuser_options,
        perspectives=names,
        horizons=tuple(_horizon(name) for name in names),
        text_dim=intents.dim,
    )


def _horizon(perspective: str) -> Horizon:
    made: Perspective = registry.create("perspectives", perspective)
    return made.horizon


def _material(job: TrainingJob, prepared: Prepared, catalogue: str, intents: IntentStore | None) -> Material:
    valid, selected_on = _selection(prepared)
    material = Material(
        prepared.sessions, prepared.train, prepared.samples["train"], valid, selected_on, catalogue
    )
    if intents is None:
        return material
    return material._replace(
        train_intents=SampleIntents.of(intents, material.train),
        select_intents=SampleIntents.of(intents, material.select),
    )


def _selection(prepared: Prepared) -> tuple[Samples, str]:
    """Samples on which the best epoch is chosen, and where they are from: `valid`, `test` or `none`."""
    valid = prepared.samples["valid"]
    if len(valid.key):
        return valid, "valid"
    # The paper has no validation part and takes the best epoch on the test set. Only its own protocol
    # does so here, and says it.
    if prepared.stats["rules"]["split"] == "paper":
        return prepared.samples["test"], "test"
    return valid, "none"


def _workers(config: Config) -> int:
    if current().size > 1:
        return 1
    return config.train.workers or min(os.cpu_count() or 1, MOST_WORKERS)


def _finished(folder: Path) -> bool:
    record = folder / RECORD
    return record.exists() and "stopped" not in read_json(record).get("facts", {})
