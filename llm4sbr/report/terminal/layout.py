"""Draws tables in a terminal and as plain text, at most `WIDTH` columns wide."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table as Drawn
from rich.text import Text

from llm4sbr.printable import CELL, printable
from llm4sbr.report.table import Table, TableCell

WIDTH = 100
"""Maximum width of a table, and the width of all output outside a terminal."""

LONGEST = 300
"""Longer words are no paths that anybody copies; they are broken."""

NARROW = 40
"""What a column without a path gets at most beside one with a path."""

BEST = ">"
"""Mark before the best value of a column."""


def show(*parts: RenderableType, file: IO[str] | None = None) -> None:
    """Print tables and paragraphs on standard output or `file`, separated by empty lines."""
    console = Console(file=file or sys.stdout, highlight=False)
    # Outside a terminal rich assumes 80 columns, whatever the environment says.
    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    with console.capture() as captured:
        for number, part in enumerate(parts):
            if number:
                console.print()
            harmless = _harmless(part)
            console.width = max(width, _needed(harmless))
            console.print(harmless)
    lines = captured.get().splitlines()
    console.file.write("".join(f"{line.rstrip()}\n" for line in lines))


def _harmless(part: RenderableType) -> RenderableType:
    """A table or paragraph whose texts may be from anybody, without control characters and cut."""
    if isinstance(part, Text):
        plain = printable(part.plain)
        if plain != part.plain:
            part.plain = plain
    if isinstance(part, Drawn):
        for column in part.columns:
            for cell in column.cells:
                if isinstance(cell, Text):
                    plain = printable(cell.plain, most=CELL)
                    if plain != cell.plain:
                        cell.plain = plain
    return part


def drawn(table: Table | None, *, spread: bool = False, caption: bool = False) -> list[RenderableType]:
    """A table with its legend below; an empty list if there is no table.

    Args:
        table: the table.
        spread: whether to show deviations over seeds.
        caption: whether to show the caption above the table.
    """
    if table is None:
        return []
    header = [f"{cell.text} ({cell.note})" if spread and cell.note else _below(cell) for cell in table.header]
    stars = [max((len(cell.mark) for cell in column), default=0) for column in zip(*table.rows, strict=True)]
    lines = [
        [_heading(row[0]), *(_text(*one, spread=spread) for one in zip(row[1:], stars[1:], strict=True))]
        for row in table.rows
    ]
    above = [Text(table.caption)] if caption else []
    best = f"{BEST} best of its column. " if any(cell.best for row in table.rows for cell in row) else ""
    below = [Text(best + table.legend)] if table.legend else []
    return [*above, grid(header, lines), *below]


def grid(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, left: int = 1) -> Drawn:
    """A table with a line below the header; the first `left` columns are text, the others numbers."""
    table = Drawn(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        words = place < left
        table.add_column(
            Text(name),
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=not words,
            min_width=_path(row[place] for row in rows),
        )
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def pairs(rows: Iterable[tuple[str, str]]) -> Drawn:
    """A table of names and values, without a header."""
    table = Drawn(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    rows = list(rows)
    table.add_column(overflow="fold", min_width=_path(value for _, value in rows))
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _path(cells: Iterable[str | Text]) -> int | None:
    """The width of the longest path in some cells, which is copied and must be whole; None without one."""
    words = [
        word for cell in cells for word in str(cell).split() if word.count(os.sep) > 1 and len(word) < LONGEST
    ]
    return max(map(cell_len, words), default=None)


def _needed(part: RenderableType) -> int:
    """The width in which a table or text breaks no path; 0 if it has none."""
    if isinstance(part, Text):
        return _path([part]) or 0
    if not isinstance(part, Drawn) or not any(column.min_width for column in part.columns):
        return 0
    cells = [[str(column.header), *map(str, column.cells)] for column in part.columns]
    widths = [
        column.min_width or min(NARROW, max(map(cell_len, own)))
        for column, own in zip(part.columns, cells, strict=True)
    ]
    return sum(widths) + sum(part.padding[1] for _ in widths)


def _below(cell: TableCell) -> str:
    return f"{cell.text}\n{cell.note}" if cell.note else cell.text


def _heading(cell: TableCell) -> Text:
    return Text(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def _text(cell: TableCell, stars: int, *, spread: bool) -> Text:
    """The cell as text; its mark is padded to the longest of the column, so that numbers are aligned."""
    text = cell.text + cell.mark.ljust(stars)
    text += f" {cell.spread}" if spread and cell.spread else ""
    return Text(BEST + text, style="bold") if cell.best else Text(text)
