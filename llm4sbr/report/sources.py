"""The LLM's model with intents from each source: `sources` of `metrics.json` as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm4sbr.evaluation.verdict import CONTROLS
from llm4sbr.report.formats import MISSING, percent
from llm4sbr.report.results import best_of, value
from llm4sbr.report.table import Table, TableCell, cells

MEANING = {
    "cache": "the LLM's own answers",
    "items": "the LLM's answers about the last item",
    "nearest": "the nearest session's",
    "predictor": "predicted by the model",
    "none": "no intents",
}
"""Source -> description."""

OWN = ("cache", "items")
"""The LLM's own answers, about the sessions themselves or about their last items."""

Source = Mapping[str, Any]


def sources_table(metrics: Mapping[str, Any]) -> Table | None:
    """For each live source, the share of the gain of the LLM's own answers that is kept.

    Args:
        metrics: the content of `metrics.json`.

    Returns:
        The table, or None if no LLM was used.
    """
    sources = metrics.get("sources", [])
    if not sources:
        return None
    k, llm = max(metrics["k"]), metrics.get("llm")
    names = [f"HR@{k}", f"MRR@{k}"]
    bases = list(sources[0]["kept"])
    header = cells("intents", "covered")
    for name in names:
        header += [TableCell(name), *(TableCell("gain kept", note=f"over {base}") for base in bases)]
    best = best_of(sources, names)
    lines = []
    for one in sources:
        line = cells(_meaning(one["name"], llm), percent(one["covered"]))
        for name in names:
            line += [value(one, name, best), *(_kept(one["kept"][base][name]) for base in bases)]
        lines.append(line)
    caption = "The model trained with the LLM's intents, on the same test samples, with intents from:"
    return Table(_said(caption, llm), header, lines, _said(_legend(sources, names, bases), llm))


def _meaning(source: str, llm: str | None) -> str:
    what = "last item" if source == "items" else "session"
    return f"{llm} of the {what}" if source in OWN and llm in CONTROLS else MEANING.get(source, source)


def _said(text: str, llm: str | None) -> str:
    """Replace "the LLM" in a text by the control's name, if a control was used instead."""
    if llm not in CONTROLS:
        return text
    return text.replace("the LLM's own answers", f"{llm}").replace("the LLM's intents", f"intents of {llm}")


def _kept(found: Mapping[str, float] | None) -> TableCell:
    if found is None:
        return TableCell(MISSING)
    return TableCell(percent(found["share"]), note=f"{percent(found['low'])} to {percent(found['high'])}")


def _legend(sources: Sequence[Source], names: Sequence[str], bases: Sequence[str]) -> str:
    own = next(one for one in sources if one["name"] in OWN)
    lost = [f"{name} over {base}" for base in bases for name in names if own["kept"][base][name] is None]
    lines = [
        "covered: test samples that get an intent. gain kept: the share of the gain of the LLM's own "
        "answers that is left."
    ]
    if any(one["name"] == "nearest" for one in sources):
        lines[0] += " The nearest session is one of training."
    predicted = next((one for one in sources if one["name"] == "predictor"), None)
    if predicted:
        lines += _interval(predicted, names, bases)
    if lost:
        lines.append(f"{MISSING} no gain of the LLM's own answers to keep: {', '.join(lost)}.")
    if not predicted and own["name"] == "cache":
        lines.append("The model was trained without a predictor; llm4sbr train --force adds it.")
    return " ".join(lines)


def _interval(source: Source, names: Sequence[str], bases: Sequence[str]) -> list[str]:
    """Confidence intervals of the predictor's shares, in one sentence."""
    found = [
        f"{name} over {base} {100 * kept['low']:.0f} to {percent(kept['high'])}"
        for base in bases
        for name in names
        if (kept := source["kept"][base][name]) is not None
    ]
    return [f"The predictor's shares, 95% interval over sessions: {', '.join(found)}."] if found else []
