"""Baselines that ask an LLM about a part of the test samples: what its answers change, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from llm4sbr.report.formats import MISSING, count, duration, metric, p_value, percent
from llm4sbr.report.results import STARS
from llm4sbr.report.table import Row, Table, TableCell, cells


def asked_table(rows: Sequence[Row], k: int) -> Table | None:
    """Metrics with the answers and without them, over the samples that were answered; None if nobody asked.

    Args:
        rows: those of `metrics.json`.
        k: length of the list.
    """
    asking = [row for row in rows if "asked" in row]
    if not asking:
        return None
    names = [f"HR@{k}", f"MRR@{k}"]
    header = cells("model", "samples", "reach")
    for name in names:
        header += cells(name, "without")
    lines = []
    for row in asking:
        found = row["asked"]
        line = cells(row["label"], _samples(row), percent(found["reach"]))
        for name in names:
            line += [_with(row, name), TableCell(metric(found["alone"][name]))]
        lines.append(line)
    llms = ", ".join(sorted({row["asked"]["llm"] for row in asking}))
    legend = (
        "samples: those with an answer to every prompt, of those chosen; the other samples keep what the row "
        "has without the LLM. without: the same samples without the LLM, as the retriever lists them. reach: "
        "samples whose next item is among the candidates, more than which no ranking of these finds."
    )
    return Table(f"What {llms} changes where it was asked, in percent", header, lines, legend)


def asking_cost_table(rows: Sequence[Row]) -> Table | None:
    """Prompts, tokens, time and price of the answers; None if nobody asked."""
    asking = [row for row in rows if "asked" in row]
    if not asking:
        return None
    header = cells("model", "prompts", "from the cache", "failed", "tokens", "time", "cost", "per sample")
    lines = []
    for row in asking:
        found = row["asked"]
        answered = row["asked"]["answered"]
        each = found["seconds"] / answered if answered else None
        cost = MISSING if found["cost"] is None else f"{found['cost']:,.2f}"
        shown = [count(found[key]) for key in ("prompts", "from_cache", "failed", "tokens")]
        lines.append(cells(row["label"], *shown, duration(found["seconds"]), cost, duration(each)))
    legend = "Distinct prompts, and the tokens and seconds of their answers, whenever they were given."
    return Table("What asking took", header, lines, legend)


def _samples(row: Row) -> str:
    found = row["asked"]
    return f"{count(found['answered'])} of {count(found['samples'])}"


def _with(row: Row, name: str) -> TableCell:
    p = row["asked"]["p"][name]
    mark = next((mark for level, mark in STARS if p < level), "")
    return TableCell(metric(row["asked"]["with"][name]), mark, note=p_value(p))
