"""How much of the gain a live session loses because the LLM was not asked about it.

The model with the LLM's intents is ranked again on the same test samples, with its intents from each of

    cache      the test samples' own answers: the upper bound
    items      in its place, the answers about the last items, if the LLM was asked about items
    nearest    the answers of the most similar training session
    predictor  the model's own prediction
    none       no intents

All but `cache` never see an answer about a test sample. `kept` is the share of the gain of the first source
over another row that a source keeps, (source - row) / (first - row), with its 95% confidence interval over
sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llm4sbr.data.batches import Batch
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.ranking import SampleIntents, rank_all, scorer
from llm4sbr.evaluation.verdict import LEVEL
from llm4sbr.fusion.saved import load_model
from llm4sbr.intents import IntentStore
from llm4sbr.intents.nearest import NearestSession

RESAMPLES = 1000
"""Number of bootstrap samples for a confidence interval."""


class SourceRanks(NamedTuple):
    """One model's ranks, with intents from one source."""

    name: str
    ranks: list[Tensor]
    """int64 (M,) per seed."""
    covered: float
    """Share of test samples for which the source has an intent."""


def rank_sources(
    folders: Sequence[Path],
    intents: IntentStore,
    prepared: Prepared,
    *,
    device: torch.device,
    batch_size: int,
    done: Callable[[str], None],
) -> list[SourceRanks]:
    """Ranks of the test samples with intents from every source except the LLM's own answers.

    Args:
        folders: the trained model of each seed.
        intents: the LLM's intents.
        prepared: the run's data.
        device: device to compute on.
        batch_size: samples per batch.
        done: called with the source's name after each source and seed.
    """
    test = prepared.samples["test"]
    near = _nearest(intents, prepared) if intents.unit == "session" else None
    found = {"predictor": SourceRanks("predictor", [], 1.0), "none": SourceRanks("none", [], 0.0)}
    if near is not None:
        covered = float((near.rows >= 0).double().mean())
        found = {"nearest": SourceRanks("nearest", [], covered), **found}

    def rank(name: str, score: Callable[[Batch], Tensor]) -> None:
        ranks = rank_all(
            score,
            prepared.sessions,
            test,
            num_items=prepared.catalogue.size,
            batch_size=batch_size,
            repeats=prepared.repeats,
        )
        found[name].ranks.append(ranks)
        done(name)

    for folder in folders:
        model = load_model(folder).model.to(device)
        if near is not None:
            rank("nearest", scorer(model, near, device))
        if model.own_source == "predictor":
            rank("predictor", scorer(model, None, device, predict=True))
        rank("none", scorer(model, None, device))
    return [one for one in found.values() if len(one.ranks) == len(folders)]


def _nearest(intents: IntentStore, prepared: Prepared) -> SampleIntents:
    """Rows of the training sessions nearest to the test samples."""
    known = NearestSession(intents, prepared.sessions, prepared.samples["train"])
    test = prepared.samples["test"]
    rows = [known.find(prepared.prefix(test, index)) for index in range(len(test.key))]
    return SampleIntents(intents, torch.tensor(rows, dtype=torch.int64))


def compare(
    sources: Sequence[SourceRanks], plain: Sequence[Tensor] | None, ks: Sequence[int], *, groups: Tensor
) -> list[dict[str, Any]]:
    """One entry per source: `name`, `covered`, `metrics`, and `kept` by row and metric; plain values only.

    Args:
        sources: all sources, first `cache` or `items`.
        plain: the plain backbone's ranks per seed, None if it was not trained.
        ks: list lengths.
        groups: int64 (M,), the session of each test sample.

    Returns:
        `kept[row][metric]` has `share`, `low` and `high`, where row is `plain` or `none`; it is None if
        the first source does not beat the row significantly, so that there is no gain to keep.
    """
    values = {one.name: _mean(one.ranks, ks) for one in sources}
    bases = {"plain": _mean(plain, ks)} if plain else {}
    if "none" in values:
        bases["none"] = values["none"]
    kept = {name: _kept(values, base, groups) for name, base in bases.items()}
    return [
        {
            "name": one.name,
            "covered": one.covered,
            "metrics": _summary(one.ranks, ks),
            "kept": {base: found[one.name] for base, found in kept.items()},
        }
        for one in sources
    ]


def _mean(ranks: Sequence[Tensor], ks: Sequence[int]) -> dict[str, Tensor]:
    """Metric -> float64 (M,), averaged over seeds."""
    per_seed = [metrics.per_sample(one, ks) for one in ranks]
    return {name: torch.stack([values[name] for values in per_seed]).mean(0) for name in per_seed[0]}


def _summary(ranks: Sequence[Tensor], ks: Sequence[int]) -> dict[str, Any]:
    per_seed = [metrics.summary(one, ks) for one in ranks]
    return {name: metrics.over_seeds([one[name] for one in per_seed]) for name in per_seed[0]}


def _kept(
    values: Mapping[str, Mapping[str, Tensor]], base: Mapping[str, Tensor], groups: Tensor
) -> dict[str, dict[str, dict[str, float] | None]]:
    """Source -> metric -> share of the gain over `base` that it keeps; None if there is no gain."""
    first = next(iter(values.values()))
    gains = {metric: first[metric] - base[metric] for metric in base}
    tested = metrics.paired_test(gains, groups)
    real = [metric for metric, gain in gains.items() if tested[metric] < LEVEL and float(gain.mean()) > 0]
    found: dict[str, dict[str, dict[str, float] | None]] = {}
    for name, own in values.items():
        shares = _shares([own[metric] - base[metric] for metric in real], [gains[m] for m in real], groups)
        found[name] = dict.fromkeys(base, None) | dict(zip(real, shares, strict=True))
    return found


def _shares(parts: Sequence[Tensor], wholes: Sequence[Tensor], groups: Tensor) -> list[dict[str, float]]:
    """Ratio of the sums of each pair of float64 (M,), and its bootstrap confidence interval over groups."""
    if not parts:
        return []
    _, group = np.unique(groups.numpy(), return_inverse=True)
    sums = np.stack([np.bincount(group, weights=one.numpy()) for one in (*parts, *wholes)], 1)
    random = np.random.default_rng(0)
    # Number of times each session is drawn: Poisson(1) instead of multinomial (Hanley & MacGibbon 2006).
    drawn = np.stack([random.poisson(1.0, len(sums)).astype(np.float64) @ sums for _ in range(RESAMPLES)])
    count = len(parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn[:, :count] / drawn[:, count:]
    low, high = np.nanquantile(ratios, (0.025, 0.975), axis=0)
    share = sums[:, :count].sum(0) / sums[:, count:].sum(0)
    return [
        {"share": float(s), "low": float(a), "high": float(b)}
        for s, a, b in zip(share, low, high, strict=True)
    ]
