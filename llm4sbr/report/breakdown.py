"""Tables of the results by groups of items and sessions (`breakdown` of `metrics.json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm4sbr.report.formats import count, metric
from llm4sbr.report.results import label
from llm4sbr.report.table import Row, Table, TableCell, best_value

CAPTIONS = {
    "target": "By how often the next click's item occurs in training",
    "last": "By how often the last item of the session occurs in training",
    "length": "By how many clicks the session has",
}
"""Split -> what its groups are based on."""

Group = Mapping[str, Any]
"""A group of test samples: name, range, samples and the metrics of every row."""


def splits(metrics: Mapping[str, Any]) -> dict[str, Sequence[Group]]:
    """The splits with several groups that have samples; the others would repeat the main table."""
    return {name: groups for name, groups in metrics.get("breakdown", {}).items() if len(groups) > 1}


def breakdown_table(split: str, groups: Sequence[Group], rows: Sequence[Row], k: int) -> Table:
    """HR@K and MRR@K of every row in every group of one split."""
    columns = [(name, group) for name in (f"HR@{k}", f"MRR@{k}") for group in groups]
    header = [
        TableCell("model"),
        *(TableCell(name, note=group_name(group, between="\n")) for name, group in columns),
    ]
    lines = [[label(row)] for row in rows]
    for name, group in columns:
        found = [group["rows"][row["name"]][name] for row in rows]
        best = best_value(found)
        for line, share in zip(lines, found, strict=True):
            line.append(TableCell(metric(share), best=share == best))
    return Table(f"{CAPTIONS[split]}; in brackets the test samples", header, lines)


def group_name(group: Group, *, between: str = " ") -> str:
    """`rare 1-5 (120)`, `3-5 (95)`: name, range and number of samples."""
    return f"{group['name']} {group['range']}{between}({count(group['samples'])})".lstrip()
