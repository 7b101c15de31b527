"""Tables of an experiment's results (`experiment.json`), compared with the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm4sbr.report.cells import Entry, labels, rows_of
from llm4sbr.report.formats import MISSING, count, metric, size
from llm4sbr.report.related import related_tables
from llm4sbr.report.results import (
    best_of,
    gain,
    label,
    legend,
    mark_controls,
    metric_header,
    peak,
    ranking,
    value,
)
from llm4sbr.report.table import Row, Table, TableCell, cells

PAPER_LEGEND = "paper: its Table 2 as printed, with Qwen-7B and BERT."
MEMORY_LEGEND = (
    "Ours: GPU memory if there is a GPU, else memory of the process; each model has its own process. "
    "The paper's: GPU memory."
)


def with_rows(cell: Entry) -> Entry:
    """Add the rows of the cell's results, with controls marked, as `rows`."""
    metrics = cell["metrics"]
    return {**cell, "rows": mark_controls(metrics["rows"], metrics.get("llm"))}


def setting(members: Sequence[Entry]) -> str:
    """The setup of the cells of one data set and protocol, in one line."""
    metrics = members[0]["metrics"]
    seeds = sorted({cell["metrics"].get("seeds", 1) for cell in members})
    number = " or ".join(map(str, seeds)) + (" seeds" if seeds != [1] else " seed")
    chosen = ", BEST EPOCH CHOSEN ON THE TEST SET" if "test" in metrics["selected_on"] else ""
    return f"Percent over {count(metrics.get('samples'))} test samples, {number}{chosen}; {ranking(metrics)}."


def cells_tables(kind: str, members: Sequence[Entry]) -> list[Table]:
    """The tables of an experiment of this kind, for cells of one data set and protocol (at least one)."""
    if kind == "related":
        return related_tables(members)
    return [memory_table(members) if kind == "memory" else metric_table(members)]


def metric_table(members: Sequence[Entry]) -> Table:
    """The rows of every cell, with the paper's results."""
    k = max(members[0]["metrics"]["k"])
    names = [f"HR@{k}", f"MRR@{k}"]
    with_paper = any(name in row for one in members for row in _printed(one) for name in names)
    header = cells("model")
    for name in names:
        header += [
            metric_header(name),
            TableCell("gain"),
            *([TableCell("paper", note=name)] if with_paper else []),
        ]
    rows = [row for one in members for row in one["rows"]]
    best = best_of(rows, names)
    lines = []
    for row, one, note in rows_of(members, omit=["backbone"]):
        line = [label(row)._replace(note=note)]
        printed = (one["paper"] or {}).get(row["name"], {})
        for name in names:
            line += [value(row, name, best), gain(row, name)]
            there = metric(printed[name]) if name in printed else MISSING
            line += cells(there) if with_paper else []
        lines.append(line)
    said = [legend(rows).replace("the plain backbone", "the cell's plain backbone")]
    return Table(
        f"Percent, lists of {k}", header, lines, " ".join([*said, *([PAPER_LEGEND] if with_paper else [])])
    )


def memory_table(members: Sequence[Entry]) -> Table:
    """Peak memory of training per cell, plain and with intents, with the paper's."""
    header = cells("backbone", "plain", "with intents", "more")
    header += [TableCell("paper", note=name) for name in ("plain", "with intents", "more")]
    lines = []
    for one, note in zip(members, labels(members, omit=["backbone"]), strict=True):
        ours = [peak(row_named(one, name)) for name in ("plain", "llm")]
        printed = [((one["paper"] or {}).get("memory") or {}).get(name) for name in ("plain", "llm")]
        lines.append([TableCell(one["axes"]["backbone"], note=note), *_pair(ours), *_pair(printed)])
    return Table("Peak memory of training", header, lines, MEMORY_LEGEND)


def row_named(cell: Entry, name: str) -> Row:
    """The row of that name, or an empty one."""
    return next((row for row in cell["rows"] if row["name"] == name), {})


def _printed(cell: Entry) -> list[Mapping[str, Any]]:
    """The paper's results for a cell: metric -> value."""
    return [row for name, row in (cell["paper"] or {}).items() if name in ("plain", "llm")]


def _pair(found: Sequence[float | None]) -> list[TableCell]:
    plain, fused = found
    more = f"{fused / plain - 1:+.1%}" if plain and fused else MISSING
    return cells(size(plain), size(fused), more)
