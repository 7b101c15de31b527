"""Output of `evaluate`: the verdict, its table, and details below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.asked import asked_table, asking_cost_table
from llm4sbr.report.breakdown import breakdown_table, splits
from llm4sbr.report.results import (
    Timings,
    cost_table,
    main_table,
    mark_controls,
    setting,
    shorter_table,
    stages_table,
)
from llm4sbr.report.sources import sources_table
from llm4sbr.report.terminal.changes import changes_parts
from llm4sbr.report.terminal.layout import drawn


def metrics_tables(
    metrics: Mapping[str, Any], timings: Timings, *, brief: bool = False
) -> list[RenderableType]:
    """The verdict of a run, and the tables of its results.

    Args:
        metrics: the content of `metrics.json`, and `changes`, that of `changes.json`, if there is one.
        timings: seconds and peak bytes of the stages.
        brief: only the verdict, its table and the times, so that they are in sight together.
    """
    *fewer, longest = sorted(metrics["k"])
    rows = mark_controls(metrics["rows"], metrics.get("llm"))
    parts: list[RenderableType] = [Text(metrics["verdict"], style="bold"), Text(setting(metrics))]
    # A column of gains in NDCG would not fit the width.
    parts += drawn(main_table(rows, longest, gains=("HR", "MRR")), spread=True)
    if brief:
        return [*parts, *drawn(stages_table(timings))]
    for start in range(0, len(fewer), 2):
        parts += drawn(shorter_table(rows, fewer[start : start + 2]))
    parts += drawn(asked_table(rows, longest), caption=True)
    parts += drawn(asking_cost_table(rows), caption=True)
    parts += drawn(sources_table(metrics), caption=True)
    if "changes" in metrics:
        parts += changes_parts(metrics["changes"], metrics.get("llm"))
    for split, groups in splits(metrics).items():
        parts += drawn(breakdown_table(split, groups, rows, longest), caption=True)
    return [*parts, *drawn(cost_table(rows)), *drawn(stages_table(timings))]
