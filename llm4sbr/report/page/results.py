"""The HTML report's results: the table, the bars, and the same split by items and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm4sbr.evaluation.verdict import CONTROLS
from llm4sbr.report.page import figures, tables
from llm4sbr.report.terminal.results import Row, ground

AXES = {
    "target": "clicks on the next item in training",
    "last": "clicks on the last item in training",
    "length": "clicks of the session",
}
"""Split -> its axis."""


def marked(rows: Sequence[Row], llm: str | None) -> list[dict[str, Any]]:
    """The rows, that in the LLM's place marked as a control if `llm`, which made it, is one."""
    return [
        {**row, "kind": "control"} if row["kind"] == "intents" and llm in CONTROLS else {**row}
        for row in rows
    ]


def results(metrics: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """The table at the longest list, bars of it, shorter lists, and the sources of live intents."""
    *fewer, k = sorted(metrics["k"])
    charts = [
        figures.bar_chart(name, [bar(row, name, rows) for row in rows], unit="percent")
        for name in (f"HR@{k}", f"MRR@{k}")
    ]
    return {
        "ground": ground(metrics),
        "table": tables.main_table(rows, k, f"Percent, lists of {k}"),
        "shorter": tables.short_table(rows, fewer) if fewer else None,
        "sources": tables.sources_table(metrics["sources"], k) if metrics.get("sources") else None,
        "charts": charts,
        "seeds": metrics.get("seeds", 1),
    }


def breakdown(metrics: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Tables of all splits; figures of those with several groups, without the baselines."""
    k = max(metrics["k"])
    splits = {name: groups for name, groups in metrics.get("breakdown", {}).items() if len(groups) > 1}
    models = [row for row in rows if row["kind"] != "baseline"]
    return {
        "tables": [tables.breakdown_table(split, groups, rows, k) for split, groups in splits.items()],
        "charts": [_by_group(split, groups, models, k) for split, groups in splits.items()],
        "legend": [(row["label"], style(row, models)) for row in models],
    }


def style(row: Row, rows: Sequence[Row]) -> int:
    """The look of a row in every figure."""
    if row["kind"] == "baseline":
        return figures.BASELINE
    return figures.style_of(row["name"], [one["name"] for one in rows if one["kind"] != "baseline"])


def bar(row: Row, name: str, rows: Sequence[Row]) -> figures.Value:
    """A row's metric in percent."""
    found = row["metrics"][name]
    spread = 100 * found["std"] if len(found["values"]) > 1 else 0.0
    control = row["kind"] == "control"
    return figures.Value(row["label"], 100 * found["mean"], style(row, rows), spread, control)


def _by_group(
    split: str, groups: Sequence[Mapping[str, Any]], rows: Sequence[Row], k: int
) -> figures.LineChart:
    series = [
        figures.Series(
            row["label"],
            [
                (float(place), 100 * group["rows"][row["name"]][f"HR@{k}"])
                for place, group in enumerate(groups)
            ],
            style(row, rows),
        )
        for row in rows
    ]
    names = {float(place): tables.group_name(group) for place, group in enumerate(groups)}
    limits = (0.0, figures.y_limits(series)[1])
    unit = f"HR@{k}, percent; in brackets the test samples"
    return figures.line_chart(
        tables.SAID[split], series, unit=unit, x_label=AXES[split], x_names=names, limits=limits
    )
