"""Labels for the cells of an experiment that distinguish them from others in the same table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm4sbr.report.table import Row

UNTIED = ("plain", "none")
"""Variants whose results do not depend on how answers are localized."""

Entry = Mapping[str, Any]
"""A cell in `experiment.json`."""


def labels(cells: Sequence[Entry], *, omit: Sequence[str] = ()) -> list[str]:
    """A label for each cell that says how it differs from the others, such as `tagnn, f 3`.

    Args:
        cells: the cells of one data set and protocol, which are in one table.
        omit: axes that the table shows elsewhere.

    Returns:
        One label per cell; "" for cells that do not differ.
    """
    every = dict.fromkeys(name for cell in cells for name in cell["axes"])
    names = [name for name in every if len({_axis(cell, name) for cell in cells}) > 1]
    # With one ablation per part, its name already says which perspectives it has.
    brief = [name for name in names if name != "perspectives"] if "part" in names else names
    found: list[str] = []
    for shown in (brief, names):
        found = [describe(cell, [name for name in shown if name not in omit]) for cell in cells]
        places = {(text, describe(cell, omit)) for text, cell in zip(found, cells, strict=True)}
        if len(places) == len(cells):
            break
    return found


def rows_of(cells: Sequence[Entry], *, omit: Sequence[str] = ()) -> Iterator[tuple[Row, Entry, str]]:
    """Yield the rows of one table, each with its cell and the cell's label.

    A model that several cells share (its metrics are equal to the last digit) and a baseline have one row,
    with an empty label. If the cells have different backbones, baselines have no gains, since these would be
    relative to different models.

    Args:
        cells: the cells of one table.
        omit: see `labels`.
    """
    several = len({cell["axes"]["backbone"] for cell in cells}) > 1
    times = Counter(_model(row) for cell in cells for row in _rows(cell))
    seen: set[str] = set()
    for cell, name in zip(cells, labels(cells, omit=omit), strict=True):
        for row in _rows(cell):
            model, baseline = _model(row), row["kind"] == "baseline"
            shared = baseline or (row["name"] in UNTIED and times[model] > 1)
            if model not in seen:
                yield {**row, "gain": {}} if baseline and several else row, cell, "" if shared else name
            if shared:
                seen.add(model)


def _rows(cell: Entry) -> Sequence[Row]:
    """The rows of a cell, with controls marked if `report.experiment.with_rows` has marked them."""
    found: Sequence[Row] = cell.get("rows") or cell["metrics"]["rows"]
    return found


def _model(row: Row) -> str:
    return str(row["label"]) if row["kind"] == "baseline" else f"{row['label']} {row['metrics']}"


def describe(cell: Entry, names: Sequence[str]) -> str:
    """A cell's values on these axes: `sr-gnn, long and short, f 3`."""
    return ", ".join(_axis(cell, name) for name in names if name in cell["axes"])


def _axis(cell: Entry, name: str) -> str:
    found = cell["axes"].get(name)
    if isinstance(found, list):
        found = " and ".join(map(str, found))
    varied = name == "f" or "." in name  # a setting, by its dotted key
    return f"{name.rpartition('.')[2]} {found}" if varied else str(found)
