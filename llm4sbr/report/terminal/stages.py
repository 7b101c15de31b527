"""What each command prints for people, on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.quality import quality_tables
from llm4sbr.report.terminal.layout import MISSING, count, duration, grid, pairs, show, size
from llm4sbr.report.terminal.results import metrics_tables

if TYPE_CHECKING:
    from pathlib import Path

    from llm4sbr.asking.cache import CacheStats
    from llm4sbr.doctor import Diagnosis
    from llm4sbr.registry import Component

MARKS = {"ok": "ok", "warn": "WARN", "error": "ERROR"}
"""How a finding's level is shown; colour only repeats it."""

COLOURS = {"ok": "", "warn": "yellow", "error": "red"}

Timings = Mapping[str, Mapping[str, float]]
"""Stage -> `seconds` and `peak_memory` in bytes."""

LONGEST = 300
"""Characters of a value that a stage's summary shows."""


def show_stage(stage: str, found: Mapping[str, Any], timings: Timings) -> None:
    """Print what a finished stage found.

    Args:
        stage: its name.
        found: its summary, as `--json` prints it.
        timings: seconds and peak bytes of every finished stage, in order.
    """
    if stage == "prepare":
        show(*stats_tables(found))
    elif stage == "train":
        show(models_table(found["models"]))
    elif stage == "localize" and found.get("sources"):
        show(*quality_tables(found))
    elif stage == "evaluate":
        show(*metrics_tables(found, timings))
    else:
        show(summary_table(found))


def show_answers(path: Path, stored: int, found: Sequence[CacheStats]) -> None:
    """Print what an answer cache of `stored` bytes has of each LLM."""
    rows = [
        (
            one.llm or "(written by an older version)",
            count(one.answers),
            count(one.tokens),
            duration(one.seconds),
            f"{_day(one.first)} to {_day(one.last)}" if one.last else "",
        )
        for one in found
    ]
    about = Text(f"{path}, {size(stored)}")
    show(about, grid(["LLM", "answers", "tokens", "time", "put here"], rows))


def stats_tables(stats: Mapping[str, Any]) -> list[RenderableType]:
    """The data of a run: `prepare/stats.json`."""
    rules = {key: value for key, value in stats.get("rules", {}).items() if value is not None}
    length = f"{stats['average_length']} ({stats['average_length_with_target']} with the target)"
    facts = [
        ("sessions", count(stats["sessions"])),
        ("clicks", count(stats["clicks"])),
        ("items", count(stats["items"])),
        ("average length", length),
        ("rules", ", ".join(f"{key} {value}" for key, value in rules.items())),
    ]
    if stats.get("clock"):
        facts.append(("time", f"{_day(stats['first_click'])} to {_day(stats['last_click'])}"))
    facts += [(what, count(number)) for what, number in stats.get("dropped", {}).items() if number]
    facts += [(what, count(number)) for what, number in stats.get("mended", {}).items() if number]
    if stats.get("rejected"):
        facts.append(("rows not read", f"{stats['rejected']:,} of {stats['rows']:,}"))
        facts += [("", line) for line in stats.get("rejected_first", [])]
    splits = [
        [name, count(part["sessions"]), count(part["clicks"]), count(part["samples"])]
        for name, part in stats["splits"].items()
    ]
    return [pairs(facts), grid(["split", "sessions", "clicks", "samples"], splits)]


def models_table(records: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The trained models of a run, from the `model.json` of each."""
    on_test = any(record["facts"].get("selected_on") == "test" for record in records)
    metric = f"{'TEST' if on_test else 'valid'} MRR@20"  # on which the best epoch was chosen
    header = ["variant", "seed", "epochs", "best", metric, "parameters", "time"]
    lines = []
    for record in records:
        facts = record["facts"]
        valid = facts.get("valid", {}).get("MRR@20")
        lines.append(
            [
                facts["variant"],
                str(facts["seed"]),
                count(facts["epochs"]),
                count(facts["best_epoch"]),
                MISSING if valid is None else f"{100 * valid:.2f}",
                count(record["parameters"]),
                duration(facts["seconds"]),
            ]
        )
    return grid(header, lines)


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """A stage's summary as names and values, long ones cut."""
    return pairs([(name, _short(value)) for name, value in _flat(summary)] or [("nothing to report", "")])


def show_components(components: Sequence[Component]) -> None:
    """Print installed components."""
    show(components_table(components))


def components_table(components: Sequence[Component]) -> RenderableType:
    """Installed components, one a line."""
    lines = [[c.kind, c.name, f"{c.package} {c.version}", c.target] for c in components]
    return grid(["kind", "name", "package", "origin"], lines, left=4)


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Print what a doctor found and what to do about it."""
    show(diagnosis_table(diagnosis))


def diagnosis_table(diagnosis: Diagnosis) -> RenderableType:
    """Findings, one a line, the remedy below."""
    lines: list[list[str | Text]] = []
    for finding in diagnosis.findings:
        mark = Text(MARKS[finding.level], style=COLOURS[finding.level])
        lines.append([mark, finding.subject, finding.what])
        if finding.mend:
            lines.append(["", "", Text(f"-> {finding.mend}", style=COLOURS[finding.level])])
    return grid(["", "subject", "found"], lines, left=3)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


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
