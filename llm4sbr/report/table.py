"""Tables as data, which both the terminal and the HTML page draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
"""A model's row of `metrics.json`."""


class TableCell(NamedTuple):
    """One cell of a table."""

    text: str
    mark: str = ""
    """Stars of significance, shown directly after the text."""
    spread: str = ""
    """The deviation over seeds, `± 0.12`."""
    note: str = ""
    """Small text below, such as a p-value or a range. The terminal shows it in headings only."""
    best: bool = False
    """Whether it is the best value of its column."""
    badge: str = ""
    """Kind of row: `control` or `baseline`. The page shows it in a frame, the terminal leaves it out."""
    link: str = ""
    """Relative address."""


class Table(NamedTuple):
    """A table ready to draw; the first cell of a row is its heading."""

    caption: str
    header: list[TableCell]
    rows: list[list[TableCell]]
    legend: str = ""
    """Explanation of marks and numbers, if needed."""


def cells(*texts: str) -> list[TableCell]:
    """Cells with plain text."""
    return [TableCell(text) for text in texts]


def best_value(values: Sequence[float]) -> float | None:
    """The highest value of a column, which is marked; None if all values are equal, or none is above 0.

    If several rows have the highest value, all of them are marked.
    """
    highest = max(values, default=0.0)
    return highest if highest > 0 and (len(values) == 1 or min(values) < highest) else None
