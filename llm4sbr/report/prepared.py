"""The data of a run, `prepare/stats.json`: sizes, rules, what was left out, and the splits as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm4sbr.report.formats import count, day
from llm4sbr.report.table import Table, cells

Facts = list[tuple[str, str]]
"""Names and values; a value without a name continues the one above."""


def sizes(stats: Mapping[str, Any]) -> Facts:
    """Sessions, clicks, items, and the rules they were made by."""
    rules = {key: value for key, value in stats.get("rules", {}).items() if value is not None}
    length = f"{stats['average_length']} ({stats['average_length_with_target']} with the target)"
    facts = [(name, count(stats[name])) for name in ("sessions", "clicks", "items")]
    facts += [("average length", length)]
    facts += [("rules", ", ".join(f"{key} {value}" for key, value in rules.items()))]
    if stats.get("clock"):
        facts.append(("time", f"{day(stats['first_click'])} to {day(stats['last_click'])}"))
    return facts


def left_out(stats: Mapping[str, Any]) -> Facts:
    """What was dropped or repaired in the log, what the items' table lacks, and unreadable rows."""
    kinds = ("dropped", "mended", "items_table")
    facts = [
        (name, count(number)) for kind in kinds for name, number in stats.get(kind, {}).items() if number
    ]
    if stats.get("rejected"):
        facts.append(("rows not read", f"{count(stats['rejected'])} of {count(stats['rows'])}"))
        facts += [("", line) for line in stats.get("rejected_first", [])]
    return facts


def splits_table(stats: Mapping[str, Any]) -> Table:
    """Sessions, clicks and samples of each split."""
    names = ("sessions", "clicks", "samples")
    lines = [cells(name, *(count(part[key]) for key in names)) for name, part in stats["splits"].items()]
    return Table("Splits", cells("split", *names), lines)
