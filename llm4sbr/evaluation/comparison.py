"""Compares the models of a run: metrics over seeds, gain over the plain backbone, significance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.verdict import Asked, Comparison, Evidence, verdict

PLAIN, LLM = "plain", "llm"
"""Names of the rows that others are compared with."""


class Row(NamedTuple):
    """One row of the table before comparison: a model or baseline and its ranks."""

    name: str
    kind: str
    """`baseline`, `plain`, `item-item`, `text-init`, `intents` or `control`."""
    label: str
    ranks: list[Tensor]
    """int64 (M,) per seed."""
    facts: list[dict[str, Any]]
    """Facts about the training, per seed."""


Values = dict[str, dict[str, Tensor]]
"""Row name -> metric -> float64 (M,), averaged over seeds."""


def table(
    rows: Sequence[Row],
    ks: Sequence[int],
    *,
    groups: Tensor,
    llm: str,
    coverage: float | None,
    without_intents: Sequence[Tensor] | None = None,
) -> dict[str, Any]:
    """The content of `metrics.json`, plain values only; `against` has the LLM's gains over each control.

    `warm` says from which older run the models start, and which of them start anew; None if all do.

    Args:
        rows: what to compare, in the table's order.
        ks: list lengths.
        groups: int64 (M,), the session of each test sample; see `metrics.paired_test`.
        llm: name of the LLM, for the verdict.
        coverage: share of test samples with an LLM answer; None without an LLM.
        without_intents: ranks per seed of the LLM's model when it gets no intents.
    """
    values = {row.name: _over_seeds(row.ranks, ks) for row in rows}
    headline = f"MRR@{max(ks)}"
    best = _best_baseline(rows, values, headline)
    pairs = _pairs(rows, best)
    tested = _test(values, pairs, groups)
    found = {pair: Comparison(_gain(values, pair, headline), tested[pair][headline]) for pair in pairs}
    evidence = Evidence(
        samples=len(groups),
        coverage=coverage,
        seeds=max((len(row.ranks) for row in rows), default=0),
        selected_on=sorted({one["selected_on"] for row in rows for one in row.facts if "seed" in one}),
        best_baseline=best,
        without_intents=_change(values, _over_seeds(without_intents, ks), headline)
        if without_intents and LLM in values
        else None,
        plain_rising=any(one.get("still_rising") for row in rows if row.name == PLAIN for one in row.facts),
    )
    return {
        "k": list(ks),
        "llm": llm,
        **evidence._asdict(),
        "sampled": sorted({one.get("loss", "full") for row in rows for one in row.facts} - {"full"}),
        "warm": _warm(rows),
        "rows": [_line(row, ks, values, tested.get((row.name, PLAIN))) for row in rows],
        "against": {
            other: {"gain": {name: _gain(values, (LLM, other), name) for name in p}, "p": p}
            for (first, other), p in tested.items()
            if first == LLM and other not in (PLAIN, best)
        },
        "verdict": verdict(found, evidence, llm=llm, metric=headline, asked=_asked(rows, headline)),
    }


def _asked(rows: Sequence[Row], metric: str) -> list[Asked]:
    """The baselines that asked an LLM themselves, with what its answers changed."""
    found = [(row.label, row.facts[0]["asked"]) for row in rows if row.facts and "asked" in row.facts[0]]
    return [Asked(label, one["llm"], one["answered"], _by_answers(one, metric)) for label, one in found]


def _by_answers(asked: Mapping[str, Any], metric: str) -> Comparison:
    new, old = asked["with"][metric], asked["alone"][metric]
    return Comparison(new / old - 1 if old else None, asked["p"][metric])


def _warm(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The run whose models these start from, and which of them start anew; None if all do."""
    trained = [(row.name, facts.get("warm")) for row in rows for facts in row.facts if "seed" in facts]
    origins = [warm["from"] for _, warm in trained if warm]
    anew = sorted({name for name, warm in trained if not warm})
    return {"from": origins[0], "anew": anew} if origins else None


def _change(values: Values, other: Mapping[str, Tensor], metric: str) -> float | None:
    """Relative change of the metric's mean from the LLM's row to another; None if the LLM's is 0."""
    own = float(values[LLM][metric].mean())
    return float(other[metric].mean()) / own - 1 if own else None


def _best_baseline(rows: Sequence[Row], values: Values, metric: str) -> str | None:
    names = [row.name for row in rows if row.kind == "baseline"]
    return max(names, key=lambda name: float(values[name][metric].mean()), default=None)


def _over_seeds(per_seed_ranks: Sequence[Tensor], ks: Sequence[int]) -> dict[str, Tensor]:
    per_seed = [metrics.per_sample(ranks, ks) for ranks in per_seed_ranks]
    return {name: torch.stack([values[name] for values in per_seed]).mean(0) for name in per_seed[0]}


def _pairs(rows: Sequence[Row], baseline: str | None) -> list[tuple[str, str]]:
    """Everything with the plain backbone, and the LLM with every control and with a baseline."""
    names = [row.name for row in rows]
    controls = [row.name for row in rows if row.kind == "control"]
    against_plain = [(name, PLAIN) for name in names if name != PLAIN and PLAIN in names]
    others = [*controls, *([baseline] if baseline else [])]
    return against_plain + [(LLM, name) for name in others if LLM in names]


def _test(
    values: Values, pairs: Sequence[tuple[str, str]], groups: Tensor
) -> dict[tuple[str, str], dict[str, float]]:
    differences = {
        (pair, metric): values[pair[0]][metric] - values[pair[1]][metric]
        for pair in pairs
        for metric in values[pair[0]]
    }
    found: dict[tuple[str, str], dict[str, float]] = {pair: {} for pair in pairs}
    for (pair, metric), p in metrics.paired_test(differences, groups).items():
        found[pair][metric] = p
    return found


def _line(row: Row, ks: Sequence[int], values: Values, p: Mapping[str, float] | None) -> dict[str, Any]:
    per_seed = [metrics.summary(ranks, ks) for ranks in row.ranks]
    names = list(values[row.name])
    return {
        "name": row.name,
        "label": row.label,
        "kind": row.kind,
        "metrics": {name: metrics.over_seeds([one[name] for one in per_seed]) for name in names},
        "gain": {name: _gain(values, (row.name, PLAIN), name) for name in names} if p else {},
        "p": dict(p or {}),
        "seconds": _mean(row.facts, "seconds"),
        "peak_memory": _mean(row.facts, "peak_memory"),
        "device_memory": _mean(row.facts, "device_memory"),
        "samples_per_second": _mean(row.facts, "samples_per_second"),
        "parameters": row.facts[0].get("parameters"),
        "still_rising": sum(bool(one.get("still_rising")) for one in row.facts),
        **{key: value for key, value in row.facts[0].items() if key == "asked"},
    }


def _gain(values: Values, pair: tuple[str, str], metric: str) -> float | None:
    """Relative difference of two means; None if the second is 0."""
    new, old = (float(values[name][metric].mean()) for name in pair)
    return new / old - 1 if old else None


def _mean(facts: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [one[key] for one in facts if one.get(key) is not None]
    return sum(known) / len(known) if known else None
