"""The LLM's model with intents from each source: `sources` of `metrics.json`, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.terminal.layout import MISSING, grid

MEANING = {
    "cache": "the LLM's own answers",
    "nearest": "the nearest session's",
    "predictor": "predicted by the model",
    "none": "no intents",
}
"""Source -> where the intents come from."""


def source_tables(metrics: Mapping[str, Any]) -> list[RenderableType]:
    """The model with intents from each source, and how much of the gain each keeps; nothing without an LLM.

    Args:
        metrics: the content of `metrics.json`.
    """
    sources = metrics.get("sources", [])
    if not sources:
        return []
    names = [f"{metric}@{max(metrics['k'])}" for metric in ("HR", "MRR")]
    bases = [base for base in ("plain", "none") if base in sources[0]["kept"]]
    header = ["intents", "covered"]
    for name in names:
        header += [name, *(f"gain over\n{base} kept" for base in bases)]
    lines = [[MEANING[one["name"]], f"{one['covered']:.0%}", *_cells(one, names, bases)] for one in sources]
    intro = "The model trained with the LLM's intents, on the same test samples, with intents from:"
    return [Text(intro), grid(header, lines), Text(_legend(sources, names, bases))]


def _cells(source: Mapping[str, Any], names: Sequence[str], bases: Sequence[str]) -> list[str]:
    cells = []
    for name in names:
        cells.append(f"{100 * source['metrics'][name]['mean']:.2f}")
        cells += [_kept(source["kept"][base][name]) for base in bases]
    return cells


def _kept(kept: Mapping[str, float] | None) -> str:
    return MISSING if kept is None else f"{kept['share']:.0%}"


def _legend(sources: Sequence[Mapping[str, Any]], names: Sequence[str], bases: Sequence[str]) -> str:
    cache = next(one for one in sources if one["name"] == "cache")
    without = [f"{name} over {base}" for base in bases for name in names if cache["kept"][base][name] is None]
    lines = ["The nearest session is one of training."]
    predicted = next((one for one in sources if one["name"] == "predictor"), None)
    if predicted:
        lines += _interval(predicted, names, bases)
    if without:
        lines.append(f"{MISSING} no gain to keep: the LLM's answers do not raise {', '.join(without)}.")
    if not predicted:
        lines.append("The model was trained without a predictor; llm4sbr train --force adds it.")
    return " ".join(lines)


def _interval(source: Mapping[str, Any], names: Sequence[str], bases: Sequence[str]) -> list[str]:
    """How sure the predictor's shares are, in one sentence."""
    found = [
        f"{name} over {base} {100 * kept['low']:.0f} to {100 * kept['high']:.0f}%"
        for base in bases
        for name in names
        if (kept := source["kept"][base][name]) is not None
    ]
    return [f"The predictor's shares, 95% interval over sessions: {', '.join(found)}."] if found else []
