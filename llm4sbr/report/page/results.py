"""The page's results: the table, dots with standard deviations, and the breakdown by items and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm4sbr.report.asked import asked_table, asking_cost_table
from llm4sbr.report.breakdown import CAPTIONS, Group, breakdown_table, group_name, splits
from llm4sbr.report.page import charts
from llm4sbr.report.page.looks import row_look
from llm4sbr.report.results import main_table, setting, shorter_table
from llm4sbr.report.sources import sources_table
from llm4sbr.report.table import Row

AXES = {
    "target": "clicks on the next item in training",
    "last": "clicks on the last item in training",
    "length": "clicks of the session",
}
"""Split -> its axis."""


def results(metrics: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """The table at the longest list, charts of it, shorter lists, and the sources of live intents."""
    *fewer, k = sorted(metrics["k"])
    return {
        "setting": setting(metrics),
        "table": main_table(rows, k),
        "shorter": shorter_table(rows, fewer) if fewer else None,
        "asked": [table for table in (asked_table(rows, k), asking_cost_table(rows)) if table],
        "sources": sources_table(metrics),
        "charts": [_metric_chart(name, rows) for name in (f"HR@{k}", f"MRR@{k}")],
        "seeds": metrics.get("seeds", 1),
    }


def breakdown(metrics: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Tables and charts of all splits with several groups; the charts without the baselines."""
    k = max(metrics["k"])
    models = [row for row in rows if row["kind"] != "baseline"]
    found = splits(metrics)
    return {
        "tables": [breakdown_table(split, groups, rows, k) for split, groups in found.items()],
        "charts": [
            _by_group(split, groups, models, metric)
            for split, groups in found.items()
            for metric in (f"HR@{k}", f"MRR@{k}")
        ],
        "legend": [(row["label"], charts.legend_key(row_look(row, models))) for row in models],
    }


def _metric_chart(metric: str, rows: Sequence[Row]) -> charts.Chart:
    """A metric of the trained models, with the plain backbone's as a line.

    The baselines are far from the models and would leave no room for the differences between these.
    """
    models = [row for row in rows if row["kind"] != "baseline"] or rows
    plain = next((100 * row["metrics"][metric]["mean"] for row in rows if row["name"] == "plain"), None)
    dots = [dot(row, metric, rows) for row in models]
    return charts.dot_chart(f"{metric} of the trained models", dots, unit="percent", reference=plain)


def dot(row: Row, metric: str, rows: Sequence[Row]) -> charts.Dot:
    """A row's metric in percent."""
    found = row["metrics"][metric]
    spread = 100 * found["std"] if len(found["values"]) > 1 else 0.0
    return charts.Dot(
        row["label"], 100 * found["mean"], row_look(row, rows), spread, hollow=row["kind"] == "control"
    )


def _by_group(split: str, groups: Sequence[Group], rows: Sequence[Row], metric: str) -> charts.Chart:
    series = [
        charts.Series(
            row["label"],
            [(float(place), 100 * group["rows"][row["name"]][metric]) for place, group in enumerate(groups)],
            row_look(row, rows),
        )
        for row in rows
    ]
    names = {float(place): group_name(group, between="\n") for place, group in enumerate(groups)}
    unit = f"{metric}, percent; in brackets the test samples"
    return charts.line_chart(CAPTIONS[split], series, unit=unit, x_label=AXES[split], x_names=names)
