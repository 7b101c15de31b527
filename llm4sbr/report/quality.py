"""Tables of the quality of the answers themselves, from `localize.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm4sbr.evaluation.verdict import CONTROLS
from llm4sbr.report.formats import MISSING, count, metric, percent
from llm4sbr.report.table import Table, TableCell, best_value, cells

COUNTED = ("answers", "distinct", "empty or refused")
NAMED = {
    "exact_title": "exactly",
    "near_title": "nearly",
    "no_title": "made up",
    "grounding": "likeness",
    "repeats_session": "repeats",
}
"""Figure of what answers name -> its column."""
POPULARITY = "popularity"

Figures = Mapping[str, Any]

LEGEND = (
    "Shares are of the answers that are not empty. An answer is a title of the catalogue exactly, nearly "
    "(but for a few letters or its year), or made up. likeness: mean cosine of an answer with the item it is "
    "closest to. repeats: this item is in the session already."
)
ALONE_LEGEND = (
    "Validation samples; items ranked by their cosine with the intent and nothing else, clicked items left "
    "out. Answers that are no better here than popularity and item-text are unlikely to help a model."
)


def answers_table(asked: Mapping[str, Mapping[str, Figures]], tied: Mapping[str, Any], llm: str) -> Table:
    """Number of answers per source and perspective, and how well they name items.

    Args:
        asked: source -> perspective -> `answers`, `empty` and `distinct`.
        tied: `sources` of `localize.json`; what it does not have is missing in the table.
        llm: name of the LLM, for the source `llm`.
    """
    lines = [
        [
            _heading(source_name(source, name, llm)),
            *cells(*_counted(about), *_named(tied.get(source, {}).get("perspectives", {}).get(name, {}))),
        ]
        for source, perspectives in asked.items()
        for name, about in perspectives.items()
    ]
    header = cells("answers of", *COUNTED, *NAMED.values())
    return Table("Answers by source and perspective", header, lines, " ".join([LEGEND, *_same(tied, llm)]))


def asked_of(tied: Mapping[str, Any]) -> dict[str, dict[str, Figures]]:
    """The first argument of `answers_table` from `sources` of `localize.json`."""
    return {
        source: {name: {"answers": one["samples"], **about} for name, about in one["perspectives"].items()}
        for source, one in tied.items()
    }


def alone_table(tied: Mapping[str, Any], llm: str) -> Table | None:
    """How well intents alone rank the next item, compared with popularity; None if that is not known."""
    rows = _rankings(tied, llm)
    if not rows:
        return None
    names = [name for name in rows[0][1] if "@" in name]
    best = {name: best_value([figures[name] for _, figures in rows]) for name in names}
    lines = [
        [
            _heading(name),
            TableCell(count(figures["samples"])),
            *(TableCell(metric(figures[one]), best=figures[one] == best[one]) for one in names),
            TableCell(count(figures.get("median_rank"))),
        ]
        for name, figures in rows
    ]
    header = cells("by the intent alone", "samples", *names, "median rank")
    return Table("The next item by the intent alone, in percent", header, lines, ALONE_LEGEND)


def setting(found: Mapping[str, Any]) -> str:
    """The localizer and encoder in use, in one sentence."""
    localizer = found.get("localizer", {})
    tied = f"{localizer.get('name', '')}, f {localizer.get('f', MISSING)}"
    return f"Answers tied to items by {tied}; texts encoded by {found.get('encoder', MISSING)}."


def source_name(source: str, perspective: str, llm: str) -> str:
    """`smollm2-135m, long`."""
    return f"{llm if source == 'llm' else source}, {perspective}"


def _heading(text: str) -> TableCell:
    """The row's heading, with controls marked."""
    who = text.rpartition(", ")[0]
    return TableCell(text, badge="control" if who in CONTROLS else "baseline" if text == POPULARITY else "")


def _counted(about: Figures) -> list[str]:
    """Number of answers, of different answers, and of unusable ones with their share."""
    empty, answers = about["empty"], about["answers"]
    share = f" ({percent(empty / answers)})" if empty else ""
    return [count(answers), count(about["distinct"]), f"{count(empty)}{share}"]


def _named(about: Figures) -> list[str]:
    """The figures of `NAMED`, if known."""
    return [_cosine(about.get(key)) if key == "grounding" else percent(about.get(key)) for key in NAMED]


def _cosine(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _same(tied: Mapping[str, Any], llm: str) -> list[str]:
    """A sentence for every source that often gave the same answer from all perspectives."""
    found = {source: one.get("same_from_all_perspectives") for source, one in tied.items()}
    return [
        f"{llm if source == 'llm' else source}: {percent(share)} of the samples have the same answer from "
        "all perspectives, for which several perspectives add nothing."
        for source, share in found.items()
        if share
    ]


def _rankings(tied: Mapping[str, Any], llm: str) -> Sequence[tuple[str, Figures]]:
    """Names and metrics of the rankings by one perspective's intent each, and last by popularity."""
    found: list[tuple[str, Figures]] = []
    popularity: Figures | None = None
    for source, one in tied.items():
        alone = dict(one.get("by_intent_alone", {}))
        popularity = alone.pop(POPULARITY, None) or popularity
        found += [(source_name(source, name, llm), figures) for name, figures in alone.items()]
    return [*found, *([(POPULARITY, popularity)] if popularity else [])]
