"""Tables of the HTML report as data; the template draws every one of them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm4sbr.report.terminal.layout import MISSING, count, duration, size
from llm4sbr.report.terminal.results import STARS, Row
from llm4sbr.report.terminal.sources import MEANING

BADGES = {"control": "control", "baseline": "baseline"}
"""Kind of a row -> what stands beside its label."""
SAID = {
    "target": "By how often the next click's item occurs in training",
    "last": "By how often the last item of the session occurs in training",
    "length": "By how many clicks the session has",
}


class TableCell(NamedTuple):
    """A cell with more to say than its text."""

    text: str
    note: str = ""
    """Below it, small."""
    best: bool = False
    """The best of its column."""
    badge: str = ""
    """Behind it, framed."""
    link: str = ""
    """Relative address."""


class Table(NamedTuple):
    """A table ready to draw; the first cell of a row is its heading."""

    caption: str
    header: list[TableCell]
    rows: list[list[TableCell]]


def cells(*texts: str) -> list[TableCell]:
    """Plain cells."""
    return [TableCell(text) for text in texts]


def main_table(rows: Sequence[Row], k: int, caption: str) -> Table:
    """Metrics at K with deviation, gain over the plain backbone and its p-value."""
    names = [f"{metric}@{k}" for metric in ("HR", "MRR", "NDCG")]
    header = cells("model")
    for name in names:
        header += [TableCell(name, f"P@{k}" if name.startswith("HR") else ""), TableCell("gain")]
    best = best_of(rows, names)
    lines = []
    for row in rows:
        line = [label(row)]
        for name in names:
            line += [value(row, name, best), gain(row, name)]
        lines.append(line)
    return Table(caption, header, lines)


def short_table(rows: Sequence[Row], ks: Sequence[int]) -> Table:
    """The same metrics at shorter lists."""
    names = [f"{metric}@{k}" for k in ks for metric in ("HR", "MRR", "NDCG")]
    best = best_of(rows, names)
    lines = [[label(row), *(value(row, name, best) for name in names)] for row in rows]
    return Table("Shorter lists, in percent", cells("model", *names), lines)


def breakdown_table(split: str, groups: Sequence[Mapping[str, Any]], rows: Sequence[Row], k: int) -> Table:
    """HR@K and MRR@K of every row in every group of one split."""
    names = [f"HR@{k}", f"MRR@{k}"]
    columns = [(group, name) for name in names for group in groups]
    header = [TableCell(name, group_name(group)) for group, name in columns]
    best = [max(one[name] for one in group["rows"].values()) for group, name in columns]
    lines = []
    for row in rows:
        line = [label(row)]
        for (group, name), top in zip(columns, best, strict=True):
            share = group["rows"][row["name"]][name]
            line.append(TableCell(f"{100 * share:.2f}", best=share == top > 0))
        lines.append(line)
    return Table(f"{SAID[split]}; in brackets the test samples", [TableCell("model"), *header], lines)


def sources_table(sources: Sequence[Mapping[str, Any]], k: int) -> Table:
    """The LLM's model with intents from each source, and what each keeps of the gain of the LLM's answers."""
    names = [f"HR@{k}", f"MRR@{k}"]
    bases = list(sources[0]["kept"])
    header = cells("intents", "covered")
    for name in names:
        header += [TableCell(name), *(TableCell("gain kept", f"over {base}") for base in bases)]
    best = best_of(sources, names)
    lines = []
    for one in sources:
        line = cells(MEANING.get(one["name"], one["name"]), f"{one['covered']:.0%}")
        for name in names:
            line += [value(one, name, best), *(_kept(one["kept"][base][name]) for base in bases)]
        lines.append(line)
    return Table("The LLM's answers, and what may stand in for them where none is at hand", header, lines)


def _kept(found: Mapping[str, float] | None) -> TableCell:
    if found is None:
        return TableCell(MISSING)
    return TableCell(f"{found['share']:.0%}", f"{found['low']:.0%} to {found['high']:.0%}")


def group_name(group: Mapping[str, Any]) -> str:
    """`rare 1-5 (120)`, `3-5 (95)`: name, range and number of samples."""
    return f"{group['name']} {group['range']} ({group['samples']:,})".lstrip()


def cost_table(rows: Sequence[Row]) -> Table:
    """Time and memory of every variant, beside the plain backbone's (the paper's Table 3)."""
    plain = next((row for row in rows if row["name"] == "plain"), {})
    gpu = any(row.get("device_memory") for row in rows)
    header = cells("model", "parameters", "training", "samples/s", "peak memory", *(["of the GPU"] * gpu))
    lines = [
        [
            label(row),
            TableCell(count(row.get("parameters")), _more(row, plain, "parameters")),
            TableCell(duration(row.get("seconds"))),
            TableCell(count(row.get("samples_per_second")), _more(row, plain, "samples_per_second")),
            TableCell(size(row.get("peak_memory")), _more(row, plain, "peak_memory")),
            *([TableCell(size(row.get("device_memory")), _more(row, plain, "device_memory"))] if gpu else []),
        ]
        for row in rows
    ]
    return Table("Mean over seeds; below, against the plain backbone", header, lines)


def peak(row: Row) -> float | None:
    """Bytes that training took at most: of the GPU if it ran on one, else of the whole process."""
    found: float | None = row.get("device_memory") or row.get("peak_memory")
    return found


def label(row: Row) -> TableCell:
    """A row's heading, its kind marked."""
    return TableCell(row["label"], badge=BADGES.get(row["kind"], ""))


def value(row: Row, name: str, best: Mapping[str, float]) -> TableCell:
    """Percent, with the deviation over seeds."""
    found = row["metrics"][name]
    spread = f"± {100 * found['std']:.2f}" if len(found["values"]) > 1 else ""
    return TableCell(f"{100 * found['mean']:.2f}", spread, found["mean"] == best[name] > 0)


def gain(row: Row, name: str) -> TableCell:
    """Relative difference to the plain backbone, starred, with its p-value."""
    found, p = (row.get("gain") or {}).get(name), (row.get("p") or {}).get(name)
    if found is None:
        return TableCell(MISSING)
    mark = next((mark for level, mark in STARS if p is not None and p < level), "")
    return TableCell(f"{found:+.1%}{mark}", "" if p is None else p_value(p))


def p_value(p: float) -> str:
    """`p = 0.03`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def best_of(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """The highest mean of each metric."""
    return {name: max((row["metrics"][name]["mean"] for row in rows), default=0.0) for name in names}


def _more(row: Row, plain: Row, key: str) -> str:
    if row is plain or not row.get(key) or not plain.get(key):
        return ""
    return f"{row[key] / plain[key] - 1:+.1%}"
