"""What an experiment found, for people: the content of `experiment.json` as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.cells import labels, rows_of
from llm4sbr.report.terminal.layout import MISSING, grid, show, size
from llm4sbr.report.terminal.results import gain_text, ranking, value_text

Cell = Mapping[str, Any]

PLAIN = "plain"


def show_experiment(content: Mapping[str, Any]) -> None:
    """Print the tables of an experiment on standard output."""
    show(*experiment_tables(content))


def experiment_tables(content: Mapping[str, Any]) -> list[RenderableType]:
    """One table per data set and protocol, with what each cell shows below it.

    Args:
        content: of `experiment.json`.
    """
    parts: list[RenderableType] = []
    for (dataset, protocol), group in groupby(content["cells"], key=_place):
        cells = list(group)
        done = [cell for cell in cells if cell["metrics"]]
        if done:
            parts += _group(f"{dataset}, protocol {protocol}", done, content["experiment"] == "memory")
        left = [cell for cell in cells if cell not in done]
        parts += [Text(f"{cell['name']}: {cell['error'] or cell['status']}") for cell in left]
    return parts


def _group(title: str, cells: Sequence[Cell], memory: bool) -> list[RenderableType]:
    ground = cells[0]["metrics"]
    seeds = sorted({cell["metrics"]["seeds"] for cell in cells})
    number = " or ".join(map(str, seeds)) + (" seeds" if seeds != [1] else " seed")
    chosen = ", BEST EPOCH CHOSEN ON THE TEST SET" if "test" in ground["selected_on"] else ""
    head = f"{title}: percent over {ground['samples']:,} test samples, {number}{chosen}; {ranking(ground)}."
    table = _memory_table(cells) if memory else _metric_table(cells)
    parts: list[RenderableType] = [Text(head), table, Text(_legend(cells, memory))]
    parts += [Text(note) for note in dict.fromkeys(note for cell in cells for note in cell["notes"])]
    called = zip(_labels(cells), cells, strict=True)
    return [*parts, *(Text(f"{label}: {cell['metrics']['verdict']}") for label, cell in called)]


def _metric_table(cells: Sequence[Cell]) -> RenderableType:
    k = max(cells[0]["metrics"]["k"])
    names = [f"HR@{k}", f"MRR@{k}"]
    with_paper = any(cell["paper"] for cell in cells)
    header = ["cell", "model"]
    for name in names:
        header += [name, "gain", *(["paper"] if with_paper else [])]
    lines = []
    for row, cell, label in rows_of(cells):
        line = [label, row["label"]]
        for name in names:
            line += [value_text(row, name), gain_text(row, name)]
            line += [_printed(cell, row["name"], name)] if with_paper else []
        lines.append(line)
    return grid(header, lines, left=2)


def _memory_table(cells: Sequence[Cell]) -> RenderableType:
    header = ["cell", "model", "peak memory", "of plain", "GPU", "of plain", "paper (GPU)"]
    lines = []
    for row, cell, label in rows_of(cells):
        if row["kind"] == "baseline":
            continue
        plain = next(one for one in cell["metrics"]["rows"] if one["name"] == PLAIN)
        line = [label, row["label"]]
        for key in ("peak_memory", "device_memory"):
            mine, other = row.get(key), plain.get(key)
            line += [size(mine), f"{mine / other:.3f}" if mine and other else MISSING]
        paper = ((cell["paper"] or {}).get("memory") or {}).get(row["name"])
        lines.append([*line, size(paper)])
    return grid(header, lines, left=2)


def _labels(cells: Sequence[Cell]) -> list[str]:
    """What sets each cell apart from the others of its table, else its backbone."""
    return [label or str(cell["axes"]["backbone"]) for label, cell in zip(labels(cells), cells, strict=True)]


def _printed(cell: Cell, row: str, metric: str) -> str:
    value = ((cell["paper"] or {}).get(row) or {}).get(metric)
    return MISSING if value is None else f"{100 * value:.2f}"


def _legend(cells: Sequence[Cell], memory: bool) -> str:
    if memory:
        return "Peak memory: the largest resident set while a model is trained, in a process of its own."
    text = (
        "gain: over the cell's plain backbone; * p < 0.05, ** p < 0.01 (paired test), no mark: may be chance."
    )
    if any(cell["metrics"]["seeds"] > 1 for cell in cells):
        text = f"± standard deviation over seeds. {text}"
    if any(cell["paper"] for cell in cells):
        text += " paper: its Table 2 as printed, with Qwen-7B and BERT."
    return text


def _place(cell: Cell) -> tuple[str, str]:
    return cell["axes"]["dataset"], cell["axes"]["protocol"]
