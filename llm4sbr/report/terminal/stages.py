"""Output of each stage on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report import quality
from llm4sbr.report.formats import count, day, duration, size
from llm4sbr.report.models import models_table
from llm4sbr.report.prepared import left_out, sizes, splits_table
from llm4sbr.report.results import Timings
from llm4sbr.report.terminal.layout import drawn, grid, pairs, show
from llm4sbr.report.terminal.results import metrics_tables

if TYPE_CHECKING:
    from pathlib import Path

    from llm4sbr.asking.cache import CacheStats
    from llm4sbr.doctor import Diagnosis
    from llm4sbr.registry import Component

MARKS = {"ok": "ok", "warn": "WARN", "error": "ERROR"}
"""How the level of a finding is shown; colours show it as well."""

COLOURS = {"ok": "", "warn": "yellow", "error": "red"}

LONGEST = 300
"""Maximum number of characters of a value in a stage's summary."""


def show_stage(stage: str, found: Mapping[str, Any], timings: Timings, *, brief: bool = False) -> None:
    """Print the result of a finished stage.

    Args:
        stage: its name.
        found: its summary, as `--json` prints it.
        timings: seconds and peak bytes of every finished stage, in order.
        brief: of the results, only the verdict and its table.
    """
    if stage == "prepare":
        show(*stats_tables(found))
    elif stage == "train":
        show(*drawn(models_table(found["models"])))
    elif stage == "localize" and found.get("sources"):
        show(*quality_tables(found))
    elif stage == "evaluate":
        show(*metrics_tables(found, timings, brief=brief))
    else:
        show(summary_table(found))


def show_answers(path: Path, stored: int, found: Sequence[CacheStats]) -> None:
    """Print how many answers of each LLM an answer cache has; `stored` is its size in bytes."""
    rows = [
        (
            one.llm or "(written by an older version)",
            count(one.answers),
            count(one.tokens),
            duration(one.seconds),
            f"{day(one.first)} to {day(one.last)}" if one.last else "",
        )
        for one in found
    ]
    about = Text(f"{path}, {size(stored)}")
    show(about, grid(["LLM", "answers", "tokens", "time", "added"], rows))


def stats_tables(stats: Mapping[str, Any]) -> list[RenderableType]:
    """The data of a run: `prepare/stats.json`."""
    return [pairs([*sizes(stats), *left_out(stats)]), *drawn(splits_table(stats))]


def quality_tables(found: Mapping[str, Any]) -> list[RenderableType]:
    """The quality of a run's answers, from `localize.json`."""
    tied, llm = found["sources"], found.get("llm", "llm")
    parts: list[RenderableType] = [Text(quality.setting(found))]
    parts += drawn(quality.answers_table(quality.asked_of(tied), tied, llm))
    parts += drawn(quality.alone_table(tied, llm))
    facts = ", ".join(f"{name} {value}" for name, value in found.get("facts", {}).items())
    return [*parts, *([Text(facts)] if facts else [])]


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """A stage's summary as names and values; long values are cut."""
    return pairs([(name, _short(value)) for name, value in _flat(summary)] or [("nothing to report", "")])


def show_components(components: Sequence[Component]) -> None:
    """Print installed components."""
    show(components_table(components))


def components_table(components: Sequence[Component]) -> RenderableType:
    """Installed components, one a line."""
    lines = [[c.kind, c.name, f"{c.package} {c.version}", c.target] for c in components]
    return grid(["kind", "name", "package", "origin"], lines, left=4)


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the findings of `doctor` and how to repair what is wrong."""
    show(diagnosis_table(diagnosis))


def diagnosis_table(diagnosis: Diagnosis) -> RenderableType:
    """One line per finding, followed by how to repair it."""
    lines: list[list[str | Text]] = []
    for finding in diagnosis.findings:
        mark = Text(MARKS[finding.level], style=COLOURS[finding.level])
        lines.append([mark, finding.subject, finding.what])
        if finding.mend:
            lines.append(["", "", Text(f"-> {finding.mend}", style=COLOURS[finding.level])])
    return grid(["", "subject", "found"], lines, left=3)


def _flat(summary: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in summary.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name} ")
        else:
            found.append((prefix + name, value))
    return found


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
