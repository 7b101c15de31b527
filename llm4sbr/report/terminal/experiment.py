"""What `llm4sbr experiment` prints: the content of `experiment.json` as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.cells import Entry, labels
from llm4sbr.report.experiment import cells_tables, setting, with_rows
from llm4sbr.report.terminal.layout import drawn, show


def show_experiment(content: Mapping[str, Any]) -> None:
    """Print the tables of an experiment on standard output."""
    show(*experiment_tables(content))


def experiment_tables(content: Mapping[str, Any]) -> list[RenderableType]:
    """One table per data set and protocol, with what each cell shows above it.

    Args:
        content: of `experiment.json`.
    """
    parts: list[RenderableType] = []
    for (dataset, protocol), group in groupby(content["cells"], key=_place):
        cells = list(group)
        done = [with_rows(cell) for cell in cells if cell["metrics"]]
        if done:
            parts += _group(f"{dataset}, protocol {protocol}", done, content["experiment"])
        left = [cell for cell in cells if not cell["metrics"]]
        parts += [Text(f"{cell['name']}: {cell['error'] or cell['status']}") for cell in left]
    return parts


def _group(title: str, cells: Sequence[Entry], kind: str) -> list[RenderableType]:
    names = zip(labels(cells), cells, strict=True)
    parts: list[RenderableType] = [
        Text(f"{name or cell['axes']['backbone']}: {cell['metrics']['verdict']}") for name, cell in names
    ]
    parts += [Text(note) for note in dict.fromkeys(note for cell in cells for note in cell["notes"])]
    parts.append(Text(f"{title}: {setting(cells)}"))
    tables = cells_tables(kind, cells)
    for table in tables:
        parts += drawn(table, spread=True, caption=len(tables) > 1)
    return parts


def _place(cell: Entry) -> tuple[str, str]:
    return cell["axes"]["dataset"], cell["axes"]["protocol"]
