"""How numbers and tables look, in a terminal and in plain text. Every table fits `WIDTH` columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 100
"""Columns of a table at most, and of everything where there is no terminal."""

MISSING = "-"

BEST = ">"
"""Stands before the best value of a column."""


def show(*parts: RenderableType, file: IO[str] | None = None) -> None:
    """Print tables and paragraphs on standard output, or `file`, an empty line between them."""
    console = Console(file=file or sys.stdout, highlight=False)
    # Elsewhere than in a terminal rich assumes 80 columns, whatever the environment says.
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    with console.capture() as captured:
        for number, part in enumerate(parts):
            if number:
                console.print()
            console.print(part)
    lines = captured.get().splitlines()
    console.file.write("".join(f"{line.rstrip()}\n" for line in lines))


def grid(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, left: int = 1) -> Table:
    """A table under a ruled header; the first `left` columns are text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        words = place < left
        table.add_column(Text(name), justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def pairs(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and values, without a header."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def count(value: float | None) -> str:
    """`1,234`."""
    return MISSING if value is None else f"{value:,.0f}"


def size(bytes_: float | None) -> str:
    """`1.31 GB`, `120 MB`."""
    if bytes_ is None:
        return MISSING
    return f"{bytes_ / 1e9:.2f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f} MB"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `12.5 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
