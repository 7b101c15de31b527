"""The final table split by items and sessions: `breakdown` of `metrics.json`, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.terminal.layout import BEST, count, grid

HEADINGS = {"target": "target", "last": "last", "length": "prefix"}
"""Split -> how its columns begin."""

Column = tuple[str, Mapping[str, Any]]
"""A split and one of its groups."""


def breakdown_tables(metrics: Mapping[str, Any]) -> list[RenderableType]:
    """HR@K and MRR@K of every group with samples, side by side; nothing where one group holds all samples.

    Args:
        metrics: the content of `metrics.json`.
    """
    splits = metrics.get("breakdown", {})
    columns = [(split, group) for split, groups in splits.items() if len(groups) > 1 for group in groups]
    if not columns:
        return []
    k = max(metrics["k"])
    tables = [_table(metrics["rows"], columns, f"{metric}@{k}") for metric in ("HR", "MRR")]
    return [Text(_legend(columns)), *tables]


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], metric: str) -> RenderableType:
    header = [f"\n\n{metric}", *(_heading(split, group) for split, group in columns)]
    best = [max(one[metric] for one in group["rows"].values()) for _, group in columns]
    lines: list[list[str | Text]] = [
        [
            row["label"],
            *(
                _value(group["rows"][row["name"]][metric], top)
                for (_, group), top in zip(columns, best, strict=True)
            ),
        ]
        for row in rows
    ]
    return grid(header, lines)


def _heading(split: str, group: Mapping[str, Any]) -> str:
    """Three lines: what is split, the group, its size."""
    name = group["name"] or group["range"]
    return f"{HEADINGS[split]}\n{name}\n{count(group['samples'])}"


def _value(value: float, best: float) -> Text:
    shown = f"{100 * value:.2f}"
    return Text(BEST + shown, style="bold") if value == best > 0 else Text(shown)


def _legend(columns: Sequence[Column]) -> str:
    by = [
        {
            "target": "how often the target occurs in training clicks",
            "last": "how often the prefix's last item does",
            "length": "clicks of the prefix",
        }[split]
        for split in dict.fromkeys(split for split, _ in columns)
    ]
    named = {group["name"]: group["range"] for _, group in columns if group["name"]}
    ranges = ", ".join(f"{name} {clicks}" for name, clicks in named.items())
    meaning = f" (occurrences: {ranges})" if ranges else ""
    return f"The same by {', by '.join(by)}{meaning}; below each heading its samples."
