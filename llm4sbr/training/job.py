"""One model to train: its settings, its data, and the training itself, in this process or another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr import freshness, registry, stamps, store
from llm4sbr.config import Config, build, to_settings
from llm4sbr.data.prepared import STATS, Prepared, catalogue_hash, load
from llm4sbr.data.whole import whole
from llm4sbr.errors import ConfigError, StoreError
from llm4sbr.evaluation.ranking import SampleIntents, pick_device
from llm4sbr.folders import link_file
from llm4sbr.freshness import ALONE, ITEM_ITEM, NONE, PLAIN, TEXT_INIT, asked
from llm4sbr.fusion.item_item import CrossFit
from llm4sbr.fusion.model import Recipe, needs_catalogue
from llm4sbr.fusion.model import build as build_model
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.intents import MANIFEST, IntentStore
from llm4sbr.intents.texts import items_of
from llm4sbr.protocols import Horizon, Perspective, Samples
from llm4sbr.system.processes import Report
from llm4sbr.training import SELECT_BY, tables
from llm4sbr.training.checkpoint import LOG
from llm4sbr.training.counting import add_counted
from llm4sbr.training.cross_fit import cross_fit
from llm4sbr.training.material import Material
from llm4sbr.training.negatives import chosen_loss
from llm4sbr.training.start import MOMENTS, Start
from llm4sbr.training.team import Team, current
from llm4sbr.training.text_init import start_from_text
from llm4sbr.training.trainer import SHOWN, train_model
from llm4sbr.training.warm import WarmStart


class TrainingJob(NamedTuple):
    """One model to train."""

    run: Path
    folder: Path
    config: Config
    variant: str
    seed: int
    chosen: dict[str, Any] | None = None
    """For a refit on all sessions: the model that it repeats, see `stages.refit`."""
    kept: bool = True
    """Save the model; otherwise only the log of its epochs is left."""

    @property
    def plain(self) -> Path | None:
        """The folder of the model that this one is, but for what is counted; None if it has to be trained."""
        own = self.kept and self.chosen is None and not self.config.train.neighbours
        return (
            self.folder.parents[1] / PLAIN / self.folder.name if own and self.variant == ITEM_ITEM else None
        )

    def as_text(self) -> str:
        """JSON text of the job, for `from_text`."""
        run, folder = str(self.run.absolute()), str(self.folder.absolute())
        return json.dumps([run, folder, to_settings(self.config), *self[3:]])

    @classmethod
    def from_text(cls, text: str) -> TrainingJob:
        """The job from the text that `as_text` wrote."""
        run, folder, settings, *others = json.loads(text)
        return cls(Path(run), Path(folder), build(settings), *others)


def variants(run: Path, config: Config) -> list[str]:
    """Variants to train, in the order of the table: `ALONE`, one per source of intents, `none`."""
    sources = [name for name in asked("localize", config) if (run / "localize" / name / MANIFEST).exists()]
    return freshness.variants(config, sources)


def try_out(jobs: Sequence[TrainingJob], prepared: Prepared) -> None:
    """Build a plain and a fused model, so that settings that they do not accept are refused early."""
    pick_device(jobs[0].config.train.device)
    tables.check_names(jobs[0].config.train.counted)
    tried = {job.variant == PLAIN: job for job in jobs}
    with torch.random.fork_rng(devices=[]):
        for job in tried.values():
            recipe = _recipe(job, prepared, _intents(job))
            build_model(recipe)
            chosen_loss(job.config.train, recipe)
        for job in [job for job in jobs if job.variant == TEXT_INIT][:1]:
            recipe = _recipe(job, prepared, None)
            vectors = _titles(job, (recipe.num_items, None))
            start_from_text(build_model(recipe).backbone, vectors, name=recipe.backbone)


def train_job(job: TrainingJob, report: Report) -> str:
    """Train one model; runs in a worker process if several are trained in parallel."""
    team = current()
    team.call(job.as_text())
    result = _train(job, report, team)
    stamps.finish_part(job.folder)
    return result


def follow(team: Team) -> int:
    """Help rank 0 to train its models, without output, until it is done; returns the exit code."""
    try:
        while text := team.awaited():
            _train(TrainingJob.from_text(text), lambda n, note: None, team)
    except Exception as error:  # of any kind; rank 0 reports it
        return team.failed(error)
    return 0


def _train(job: TrainingJob, report: Report, team: Team) -> str:
    data = job.run / "prepare"
    written = store.file_sha256(data / STATS)
    prepared = _prepared(data, written)
    catalogue = catalogue_hash(prepared.catalogue)
    intents = _intents(job)
    settings, llm = job.config.train, job.config.infer.llm if job.variant == "llm" else None
    facts: dict[str, Any] = {"variant": job.variant, "llm": llm}
    if job.chosen is not None:
        prepared = whole(prepared)
        settings = settings.model_copy(update={"epochs": job.chosen["epochs"]})
        facts["chosen"] = job.chosen
    if job.plain is not None:
        device = team.device(settings.device)
        return "" if team.rank else _count(job, job.plain, prepared, catalogue, device)
    recipe = _recipe(job, prepared, intents)
    material = _material(job, prepared, catalogue, None if job.variant == "none" else intents)
    if needs_catalogue(recipe):
        material = material._replace(titles=_titles(job, (recipe.num_items, recipe.text_dim)))
    if job.variant == TEXT_INIT:
        material = material._replace(start=_titles(job, (recipe.num_items, None)))
    if recipe.neighbours:
        found = _item_item(data, written, recipe.neighbours, job.chosen is not None)
        material = material._replace(item_item=found)
    if job.kept and job.variant not in (PLAIN, TEXT_INIT):
        names = settings.counted if job.chosen is None else job.chosen.get("counted", ())
        material = material._replace(tables=tables.made(names, recipe, material.fit, material.titles))
    if start := Start.of(job.run):
        part, without = f"{job.variant}/seed-{job.seed}", job.variant in (PLAIN, ITEM_ITEM)
        texts = None if without else _titles(job, (recipe.num_items, None))
        material = material._replace(warm=WarmStart.of(start, part, recipe, job.run, prepared, texts))
    if job.chosen is not None:
        material = material._replace(rates=tuple(job.chosen["rates"]))
    elif material.warm:
        settings = settings.model_copy(update={"epochs": min(settings.epochs, settings.warm_epochs)})
    return train_model(
        job.folder,
        recipe,
        material,
        settings,
        seed=job.seed,
        report=report,
        facts=facts if job.kept else None,
        team=team,
    )


def _count(job: TrainingJob, plain: Path, prepared: Prepared, catalogue: str, device: torch.device) -> str:
    """Add what is counted to the trained plain model, which is not trained a second time."""
    with torch.random.fork_rng(devices=[]):
        saved = load_model(plain)
    material = _material(job, prepared, catalogue, None)
    found = tables.made(job.config.train.counted, saved.recipe, material.fit, None)
    model = saved.model.to(device)
    counted = add_counted(model, material._replace(tables=found), weights=None, ks=SHOWN)
    facts = saved.facts | {"variant": job.variant} | counted
    recipe = saved.recipe._replace(counted=model.counted.names if model.counted else ())
    for name in (LOG, MOMENTS):
        link_file(plain / name, job.folder / name)
    save_model(job.folder, model, recipe=recipe, catalogue=catalogue, facts=facts)
    return f"the plain model, {SELECT_BY} {100 * facts['valid'].get(SELECT_BY, 0.0):.2f}% with counts"


@lru_cache(maxsize=1)
def _prepared(folder: Path, written: str) -> Prepared:
    """The run's data, read once per process as long as it is the same, which `written` says."""
    return load(folder)


@lru_cache(maxsize=1)
def _item_item(folder: Path, written: str, neighbours: int, final: bool) -> CrossFit:
    """The item-item model of the run's training samples, or of all for a refit; fitted once per process."""
    prepared = _prepared(folder, written)
    prepared = whole(prepared) if final else prepared
    return cross_fit(
        prepared.sessions, prepared.samples["train"], prepared.catalogue.size, neighbours=neighbours
    )


def _intents(job: TrainingJob) -> IntentStore | None:
    """The variant's intents; `none` gets those of another variant, only for their shape."""
    if job.variant in ALONE:
        return None
    source = job.variant
    if source == "none":
        source = next(name for name in variants(job.run, job.config) if name not in (*ALONE, NONE))
    folder = job.run / "localize" / source
    intents = IntentStore.open(folder)
    if not len(intents):
        raise StoreError(
            f"{folder}: no sample has an answer; raise infer.budget, or train with infer.llm=none"
        )
    return intents


def _titles(job: TrainingJob, expected: tuple[int, int | None]) -> Tensor:
    """The catalogue's text vectors, float32 (N, E); `expected` is (N, E), or (N, None) for any E."""
    path = items_of(job.run / "localize", job.variant)
    if not path.exists() and job.variant == TEXT_INIT:
        raise ConfigError(
            f"train.text_init: {path.parent} has no text vectors of the items, as no LLM was asked; choose "
            "infer.llm (item-text needs none), or leave text_init out"
        )
    titles = store.read_tensors(path).get("items", torch.zeros(0, 0))
    if titles.shape != (expected[0], expected[1] or titles.shape[-1]):
        raise StoreError(
            f"{path}: items {tuple(titles.shape)}, catalogue and intents need {expected}; run localize again"
        )
    return titles


def _recipe(job: TrainingJob, prepared: Prepared, intents: IntentStore | None) -> Recipe:
    settings = job.config.train
    recipe = Recipe(prepared.catalogue.size, settings.dim, settings.backbone, settings.options)
    if job.variant not in (PLAIN, TEXT_INIT):
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
    valid, selected_on = selection(prepared)
    material = Material(
        prepared.sessions,
        prepared.train,
        prepared.samples["train"],
        valid,
        selected_on,
        catalogue,
        repeats=prepared.repeats,
    )
    if intents is None:
        return material
    return material._replace(
        train_intents=SampleIntents.of(intents, material.sessions, material.train),
        select_intents=SampleIntents.of(intents, material.sessions, material.select),
    )


def selection(prepared: Prepared) -> tuple[Samples, str]:
    """Samples on which the best epoch is chosen, and their origin: `valid`, `test` or `none`."""
    valid = prepared.samples["valid"]
    if len(valid.key):
        return valid, "valid"
    # The paper has no validation part and takes the best epoch on the test set. Only its own protocol
    # does so here, and says it.
    test = prepared.samples["test"]
    if prepared.stats["rules"]["split"] == "paper" and len(test.key):
        return test, "test"
    return valid, "none"
