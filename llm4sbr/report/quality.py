"""What answers are worth by themselves: figures of `localize.json` for the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.terminal.layout import BEST, MISSING, count, grid

NAMED = {
    "exact_title": "exactly",
    "near_title": "nearly",
    "no_title": "made up",
    "grounding": "likeness",
    "repeats_session": "repeats",
}
"""Figure of an answer's naming -> its column."""
COUNTED = ("answers", "distinct", "empty or refused")
POPULARITY = "popularity"

Ranked = tuple[str, Mapping[str, Any]]
"""Whose ranking it is, and its figures."""

LEGEND = (
    "Shares are of the answers that are not empty. An answer is a title of the catalogue exactly, nearly "
    "(but for a few letters or its year), or made up. likeness: mean cosine of an answer with the item it is "
    "closest to. repeats: that item was clicked already."
)
ALONE_LEGEND = (
    "Validation samples; items ranked by their cosine with the intent and nothing else, clicked items left "
    "out. Answers that are no better here than popularity and item-text are unlikely to help a model."
)


def quality_tables(found: Mapping[str, Any]) -> list[RenderableType]:
    """Tables of a finished `localize`: of its `localize.json`, with answers."""
    llm = found.get("llm", "llm")
    sources = found["sources"]
    lines = [
        [source_name(source, name, llm), *counted(one["samples"], about), *named(about)]
        for source, one in sources.items()
        for name, about in one["perspectives"].items()
    ]
    answers = grid(["answers of", *COUNTED, *NAMED.values()], lines)
    parts: list[RenderableType] = [Text(_ground(found)), answers]
    parts.append(Text("\n".join([LEGEND, *same(sources, llm)])))
    rows = by_intent(sources, llm)
    if rows:
        best = best_hits(rows)
        table = [[name, *shown(one, BEST if hits(one) == best else "")] for name, one in rows]
        parts += [grid(alone_header(rows), table), Text(f"{BEST} best of its column. {ALONE_LEGEND}")]
    facts = ", ".join(f"{name} {value}" for name, value in found.get("facts", {}).items())
    return [*parts, *([Text(facts)] if facts else [])]


def source_name(source: str, perspective: str, llm: str) -> str:
    """`smollm2-135m, long`."""
    return f"{llm if source == 'llm' else source}, {perspective}"


def counted(answers: int, about: Mapping[str, Any]) -> list[str]:
    """How many answers, how many different ones, and how many say nothing usable, with their share."""
    empty = about["empty"]
    share = f" ({empty / answers:.0%})" if empty else ""
    return [count(answers), count(about["distinct"]), f"{count(empty)}{share}"]


def named(about: Mapping[str, Any]) -> list[str]:
    """The figures of `NAMED`; those not known are missing."""
    return [_cosine(about.get(key)) if key == "grounding" else _share(about.get(key)) for key in NAMED]


def same(sources: Mapping[str, Any], llm: str) -> list[str]:
    """A sentence for every source whose perspectives often got one answer."""
    found = {source: one.get("same_from_all_perspectives") for source, one in sources.items()}
    return [
        f"{llm if source == 'llm' else source}: {share:.0%} of the samples have the same answer from all "
        "perspectives, which then are one."
        for source, share in found.items()
        if share
    ]


def by_intent(sources: Mapping[str, Any], llm: str) -> list[Ranked]:
    """Rankings by an intent alone, and last the same samples' by popularity; none if nothing was ranked."""
    found: list[Ranked] = []
    popularity: Mapping[str, Any] | None = None
    for source, one in sources.items():
        alone = dict(one.get("by_intent_alone", {}))
        popularity = alone.pop(POPULARITY, None) or popularity
        found += [(source_name(source, name, llm), figures) for name, figures in alone.items()]
    return [*found, *([(POPULARITY, popularity)] if popularity else [])]


def alone_header(rows: Sequence[Ranked]) -> list[str]:
    """Columns of `shown`."""
    return ["by the intent alone", "samples", *(name for name in rows[0][1] if "@" in name), "median rank"]


def hits(figures: Mapping[str, Any]) -> float:
    """The hit rate, by which rankings are compared."""
    return next(float(value) for name, value in figures.items() if name.startswith("HR@"))


def best_hits(rows: Sequence[Ranked]) -> float:
    """The highest hit rate."""
    return max(hits(figures) for _, figures in rows)


def shown(figures: Mapping[str, Any], mark: str = "") -> list[str]:
    """Samples, hit rate (marked) and reciprocal rank in percent, and the median rank."""
    metrics = [f"{100 * value:.2f}" for name, value in figures.items() if "@" in name]
    return [count(figures["samples"]), f"{mark}{metrics[0]}", *metrics[1:], count(figures.get("median_rank"))]


def _ground(found: Mapping[str, Any]) -> str:
    localizer = found.get("localizer", {})
    tied = f"{localizer.get('name', '')}, f {localizer.get('f', MISSING)}"
    return f"Answers tied to items by {tied}; texts encoded by {found.get('encoder', MISSING)}."


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0%}"


def _cosine(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
