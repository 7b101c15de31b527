"""Stage `evaluate`: ranks the whole catalogue for every test sample, with every model and baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.asking.baselines import questioner
from llm4sbr.config import Config, departures
from llm4sbr.config.types import check_lengths
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import StoreError
from llm4sbr.evaluation.asked import together
from llm4sbr.evaluation.baselines import BaselineRows
from llm4sbr.evaluation.breakdown import breakdown, numbers_of
from llm4sbr.evaluation.changes import changes
from llm4sbr.evaluation.comparison import LLM, PLAIN, Row, table
from llm4sbr.evaluation.live_sources import SourceRanks, compare, rank_sources
from llm4sbr.evaluation.ranking import SampleIntents, pick_device, rank_all, scorer
from llm4sbr.freshness import ALONE, ITEM_ITEM
from llm4sbr.fusion.saved import load_model
from llm4sbr.intents import IntentStore, verify_all
from llm4sbr.progress import Advance, Progress
from llm4sbr.report.changes import RECORD
from llm4sbr.stamps import Attempt
from llm4sbr.training.trained import model_folders

KINDS = {"plain": "plain", "item-item": "item-item", "text-init": "text-init", "llm": "intents"}
"""Variant -> kind of row; all others are controls."""

COUNTED = " + counts"
"""Behind the label of a model to whose scores counts are added, `fusion.counted`."""


def evaluate(
    run: Path, out: Path, config: Config, progress: Progress, attempt: Attempt | None = None
) -> None:
    """Write `ranks.safetensors`, `metrics.json`, and `changes.json` if there are intents of an LLM.

    Each baseline's ranks are a part, `baselines/<name>/`; those that exist already are kept.

    Args:
        run: has `prepare`, `train` and, with intents, `localize`.
        out: the folder to write.
        config: all settings.
        progress: shows the samples ranked.
        attempt: the existing parts; called when all checks have passed, before anything is written.

    Raises:
        ConfigError: a K is larger than the catalogue, or an option of a baseline out of range.
        RegistryError: there is no such baseline, or it has no such option.
        StoreError: there is no test sample, or a model belongs to another catalogue.
    """
    attempt = attempt or Attempt.alone(out, "evaluate")
    prepared = load(run / "prepare")
    _check(run, prepared, config.evaluate.k)
    verify_all(run / "localize", catalogue=catalogue_hash(prepared.catalogue))
    folders = model_folders(run / "train")
    ask = questioner(prepared, config)
    baselines = BaselineRows(run, prepared, config, attempt, ask)
    pick_device(config.train.device)
    attempt.begin()
    samples = len(prepared.samples["test"].key)
    asked = [folder for folder in folders if folder.parent.name == LLM]
    count = len(folders) + len(config.train.baselines) + 3 * len(asked)
    with progress.task("evaluate", count * samples, unit="samples") as advance:
        rows = baselines.rows(advance, progress)
        rows += _models(run, folders, prepared, config, advance)
        others = _sources(run, asked, prepared, config, advance)
    store.write_tensors(out / "ranks.safetensors", _tensors(rows))
    test, ks = prepared.samples["test"], config.evaluate.k
    groups = torch.searchsorted(prepared.sessions.offsets, test.end, right=True)  # a target's session
    coverage = _coverage(run, prepared)
    without = next((one.ranks for one in others if one.name == "none"), None)
    content = table(rows, ks, groups=groups, llm=config.infer.llm, coverage=coverage, without_intents=without)
    by_name = {row.name: row.ranks for row in rows}
    if same := together(by_name, baselines.answered, ks):
        content["asked_samples"] = same
    if others:
        own = "items" if IntentStore.open(run / "localize" / LLM).unit == "item" else "cache"
        first = SourceRanks(own, by_name[LLM], coverage or 0.0)
        content["sources"] = compare([first, *others], by_name.get(PLAIN), ks, groups=groups)
        told = _changes(run, prepared, by_name, without, k=max(ks))
        if told:
            store.write_json(out / RECORD, told)
    content["breakdown"] = breakdown(by_name, numbers_of(prepared), max(config.evaluate.k))
    rules = prepared.stats["rules"]
    named = {"protocol": config.protocol, "protocol_changes": departures(config), "split": rules["split"]}
    named |= {"prefixes": rules.get("test_prefixes"), "repeats": prepared.repeats}
    store.write_json(out / "metrics.json", named | content)


def _check(run: Path, prepared: Prepared, ks: Sequence[int]) -> None:
    if not len(prepared.samples["test"].key):
        raise StoreError(f"{run / 'prepare'}: no test samples; use more sessions or larger data.test")
    check_lengths(ks, prepared.catalogue.size)


def _models(
    run: Path, folders: Sequence[Path], prepared: Prepared, config: Config, advance: Advance
) -> list[Row]:
    catalogue = catalogue_hash(prepared.catalogue)
    rows: dict[str, Row] = {}
    for folder in sorted(folders, key=_order):
        variant = folder.parent.name
        empty = Row(variant, KINDS.get(variant, "control"), _label(variant, config), [], [])
        row = rows.setdefault(variant, empty)
        ranks, facts = _model(run, folder, prepared, config, catalogue)
        row.ranks.append(ranks)
        row.facts.append(facts)
        if (facts.get("counted") or {}).get("better") and not row.label.endswith(COUNTED):
            # Without a linear model of its own it is the plain model, to whose scores counts are added.
            alone = variant == ITEM_ITEM and not config.train.neighbours
            label = _label(PLAIN if alone else variant, config)
            row = rows[variant] = row._replace(label=label + COUNTED)
        advance(len(ranks), f"{variant}, seed {facts['seed']}")
    return list(rows.values())


def _model(
    run: Path, folder: Path, prepared: Prepared, config: Config, catalogue: str
) -> tuple[Tensor, dict[str, Any]]:
    saved = load_model(folder)
    if saved.catalogue != catalogue:
        raise StoreError(f"{folder}: trained on another catalogue than {run / 'prepare'}; run train again")
    device = pick_device(config.train.device)
    source = run / "localize" / folder.parent.name
    test = prepared.samples["test"]
    intents = SampleIntents.of(IntentStore.open(source), prepared.sessions, test) if source.exists() else None
    ranks = rank_all(
        scorer(saved.model.to(device), intents, device),
        prepared.sessions,
        test,
        num_items=prepared.catalogue.size,
        batch_size=config.evaluate.batch_size,
        repeats=prepared.repeats,
    )
    parameters = sum(parameter.numel() for parameter in saved.model.parameters())
    return ranks, saved.facts | {"parameters": parameters}


def _sources(
    run: Path, folders: Sequence[Path], prepared: Prepared, config: Config, advance: Advance
) -> list[SourceRanks]:
    """Ranks of the LLM's models with intents from the other live sources; none without an LLM."""
    if not folders:
        return []
    samples = len(prepared.samples["test"].key)
    return rank_sources(
        sorted(folders, key=_order),
        IntentStore.open(run / "localize" / LLM),
        prepared,
        device=pick_device(config.train.device),
        batch_size=config.evaluate.batch_size,
        done=lambda name: advance(samples, f"intents from {name}"),
    )


def _order(folder: Path) -> tuple[int, str, int]:
    places = (*ALONE, "llm", "item-text", "shuffled")
    variant = folder.parent.name
    last = len(places) + (variant == "none")
    seed = int(folder.name.removeprefix("seed-"))
    return (places.index(variant) if variant in places else last, variant, seed)


def _label(variant: str, config: Config) -> str:
    backbone = config.train.backbone
    if variant in ALONE:
        return f"{backbone}, {variant}"
    text = {"llm": f"intents of {config.infer.llm}", "none": "no intents"}
    return f"{backbone}, {text.get(variant, f'{variant} intents')}"


def _changes(
    run: Path,
    prepared: Prepared,
    ranks: Mapping[str, Sequence[Tensor]],
    without: Sequence[Tensor] | None,
    *,
    k: int,
) -> dict[str, Any] | None:
    """Which samples gain and lose by the LLM's intents, over the same model without them, and over plain."""
    found = IntentStore.open(run / "localize" / LLM)
    intents = SampleIntents.of(found, prepared.sessions, prepared.samples["test"])
    others = {"none": without, PLAIN: ranks.get(PLAIN)}
    there = {name: one for name, one in others.items() if one}
    return changes(run, prepared, intents, ranks[LLM], there, k=k)


def _tensors(rows: Sequence[Row]) -> dict[str, Tensor]:
    named = {}
    for row in rows:
        for ranks, facts in zip(row.ranks, row.facts, strict=True):
            named[f"{row.name}/seed-{facts['seed']}" if "seed" in facts else row.name] = ranks
    return named


def _coverage(run: Path, prepared: Prepared) -> float | None:
    """Share of the test samples that have an intent of the LLM, None without an LLM."""
    folder = run / "localize" / "llm"
    if not folder.exists():
        return None
    rows = IntentStore.open(folder).rows_of(prepared.sessions, prepared.samples["test"])
    return float((rows >= 0).double().mean())
