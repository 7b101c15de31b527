"""What a run cost, what the LLM answered and what the data is, for the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm4sbr import stamps, store
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation.verdict import CONTROLS
from llm4sbr.report import quality
from llm4sbr.report.page import tables
from llm4sbr.report.page.tables import Table, TableCell, cells
from llm4sbr.report.terminal.layout import count, duration, size
from llm4sbr.report.terminal.results import Row


def cost(run: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Time and memory per model, and per stage."""
    models = [row for row in rows if row["kind"] != "baseline"]
    done = [stamp for name in stamps.STAGE_NAMES if (stamp := stamps.read_stamp(run / name))]
    lines = [cells(one.stage, duration(one.seconds), size(one.peak_memory)) for one in done]
    return {
        "models": tables.cost_table(models) if models else None,
        "stages": Table("Stages of the run", cells("stage", "time", "peak memory"), lines) if lines else None,
    }


def answers(run: Path, coverage: float | None) -> dict[str, Any] | None:
    """What the LLM was asked and of what kind its answers are; None where nobody was asked.

    Args:
        run: has `infer`, and `localize` if it got so far.
        coverage: share of the test samples with an answer, as `metrics.json` has it.
    """
    found = store.read_json(run / "infer" / "infer.json")
    sources = found.get("sources", {})
    if not sources:
        return None
    localized = run / "localize" / "localize.json"
    tied = store.read_json(localized).get("sources", {}) if localized.exists() else {}
    lines = [
        _line(source, name, about, found["llm"], tied.get(source, {}).get("perspectives", {}).get(name, {}))
        for source, perspectives in sources.items()
        for name, about in perspectives.items()
    ]
    narrow = [
        TableCell("empty", "or refused") if name.startswith("empty") else TableCell(name)
        for name in quality.COUNTED
    ]
    header = [TableCell("answers of"), *narrow, *cells(*quality.NAMED.values())]
    return {
        "said": _coverage(found, coverage),
        "table": Table("Answers by source and perspective", header, lines),
        "legend": quality.LEGEND,
        "same": quality.same(tied, found["llm"]),
        "alone": _alone(tied, found["llm"]),
        "alone_legend": quality.ALONE_LEGEND,
        "examples": [(name, about["example"]) for name, about in sources.get("llm", {}).items()],
    }


def data(prepared: Prepared) -> dict[str, Any]:
    """Sizes, the rules by which sessions and splits were made, and what was dropped."""
    stats = prepared.stats
    rules = [f"{key} {value}" for key, value in stats.get("rules", {}).items() if value is not None]
    splits = [
        cells(name, *(count(part[key]) for key in ("sessions", "clicks", "samples")))
        for name, part in stats.get("splits", {}).items()
    ]
    dropped = [f"{what} {count(number)}" for what, number in stats.get("dropped", {}).items() if number]
    return {
        "sizes": ", ".join(
            f"{count(stats[key])} {key}" for key in ("sessions", "clicks", "items") if key in stats
        ),
        "rules": ", ".join(rules),
        "dropped": ", ".join(dropped),
        "splits": Table("Splits", cells("split", "sessions", "clicks", "samples"), splits)
        if splits
        else None,
    }


def _coverage(found: Mapping[str, Any], coverage: float | None) -> str:
    """How far the answers reach, in words."""
    samples, answered = found.get("samples"), found.get("answered")
    parts = []
    if samples and answered is not None:
        share = f"{answered / samples:.0%}"
        parts.append(f"{count(answered)} of {count(samples)} samples of all splits have an answer ({share})")
    if coverage is not None:
        parts.append(f"{coverage:.0%} of the test samples have one")
    if found.get("budget"):
        parts.append(f"the budget was {found['budget']}")
    return f"{'; '.join(parts)}." if parts else ""


def _line(
    source: str, perspective: str, about: Mapping[str, Any], llm: str, tied: Mapping[str, Any]
) -> list[TableCell]:
    numbers = [*quality.counted(about["answers"], about), *quality.named(tied)]
    return [_name(quality.source_name(source, perspective, llm)), *cells(*numbers)]


def _alone(tied: Mapping[str, Any], llm: str) -> Table | None:
    """Where the next item stands by the intent alone; None where that was not measured."""
    rows = quality.by_intent(tied, llm)
    if not rows:
        return None
    best = quality.best_hits(rows)
    lines = []
    for name, figures in rows:
        samples, hits, *rest = quality.shown(figures)
        marked = TableCell(hits, best=quality.hits(figures) == best > 0)
        lines.append([_name(name), *cells(samples), marked, *cells(*rest)])
    return Table("The next item by the intent alone, in percent", cells(*quality.alone_header(rows)), lines)


def _name(text: str) -> TableCell:
    """The row's heading, controls marked."""
    who = text.rpartition(", ")[0]
    return TableCell(
        text, badge="control" if who in CONTROLS else "baseline" if text == quality.POPULARITY else ""
    )
