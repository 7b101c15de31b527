"""Figures of an experiment's report: bars of every backbone or part, lines against f, bars of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llm4sbr.report.cells import Entry, describe, labels
from llm4sbr.report.page import figures
from llm4sbr.report.page.results import bar, style
from llm4sbr.report.page.tables import peak
from llm4sbr.report.terminal.results import Row

PAPER = {"plain": "paper, plain", "llm": "paper, with intents"}
"""Row -> how the paper's figure of it is called."""

MEMORY = "Ours: of the GPU if there is one, else of the whole process. The paper's: of the GPU."


class Figures(NamedTuple):
    """Figures of one data set and protocol."""

    rows: Sequence[tuple[str, Sequence[figures.BarChart | figures.LineChart]]]
    """By metric: its name, and charts to be seen side by side."""
    note: str
    legend: Sequence[tuple[str, int]] = ()
    """Of lines: label and style."""


def backbones(members: Sequence[Entry], k: int) -> Figures:
    """Per cell the bars of all its models, and the paper's beside."""
    rows = []
    for metric in (f"HR@{k}", f"MRR@{k}"):
        longest = max(_top(one, metric) for one in members)
        titled = zip(members, _titles(members), strict=True)
        rows.append((metric, [_cell_bars(one, metric, longest, title=title) for one, title in titled]))
    grey = " Grey: the paper's own figures." if any(one["paper"] for one in members) else ""
    return Figures(rows, f"Hatched: controls.{grey} One scale per metric.")


def ablation(members: Sequence[Entry], k: int) -> Figures:
    """Per backbone the bars of the method's parts, between the plain backbone and the controls."""
    together = _by(members, "backbone", "f")
    rows = [(metric, [_part_bars(same, metric) for same in together]) for metric in (f"HR@{k}", f"MRR@{k}")]
    return Figures(rows, "Hatched: controls, those of the whole method.")


def localization(members: Sequence[Entry], k: int) -> Figures:
    """Per backbone a line for each variant against f."""
    rows: list[tuple[str, list[figures.LineChart]]] = []
    legend: dict[str, int] = {}
    for metric in (f"HR@{k}", f"MRR@{k}"):
        charts = []
        for same in _by(members, "backbone", "perspectives"):
            ordered = sorted(same, key=lambda one: float(one["axes"]["f"]))
            series = [*(_line(name, ordered, metric) for name in _names(ordered)), *_printed(ordered, metric)]
            names = {float(one["axes"]["f"]): str(one["axes"]["f"]) for one in ordered}
            legend |= {one.label: one.style for one in series}
            chart = figures.line_chart(
                _title(same[0]), series, unit=f"{metric}, percent", x_label="f", x_names=names
            )
            charts.append(chart)
        rows.append((metric, charts))
    note = "f: items that an answer is tied to; 0 keeps the raw answer. Whiskers: deviation over seeds."
    return Figures(rows, note, list(legend.items()))


def memory(members: Sequence[Entry], k: int) -> Figures:
    """Per cell the peak memory of training, plain and with intents."""
    titled = zip(members, _titles(members), strict=True)
    charts = [chart for one, title in titled if (chart := _memory_bars(one, title))]
    return Figures([("Peak memory", charts)], MEMORY)


FIGURES: dict[str, Callable[[Sequence[Entry], int], Figures]] = {
    "table2": backbones,
    "ablation": ablation,
    "localization": localization,
    "memory": memory,
}
"""Kind of experiment -> its figures for the cells (at least one) of one data set and protocol."""


def _cell_bars(one: Entry, metric: str, longest: float, *, title: str) -> figures.BarChart:
    values = [bar(row, metric, _models(one)) for row in _models(one)]
    printed = one["paper"] or {}
    values += [
        figures.Value(said, 100 * printed[name][metric], figures.BASELINE)
        for name, said in PAPER.items()
        if metric in printed.get(name, {})
    ]
    return figures.bar_chart(title, values, unit=f"{metric}, percent", longest=longest)


def _part_bars(same: Sequence[Entry], metric: str) -> figures.BarChart:
    whole = next((one for one in same if one["axes"].get("part") == "whole"), same[0])
    plain, controls = (
        [
            bar(row, metric, _models(whole))
            for row in _models(whole)
            if row["kind"] == kind and row["name"] != "llm"
        ]
        for kind in ("plain", "control")
    )
    parts = [
        bar(row, metric, _models(one))._replace(label=f"intents, {part or one['axes'].get('part', 'whole')}")
        for one, part in zip(same, labels(same, told=["backbone", "f"]), strict=True)
        for row in _models(one)
        if row["name"] == "llm"
    ]
    return figures.bar_chart(
        whole["axes"]["backbone"], [*plain, *parts, *controls], unit=f"{metric}, percent"
    )


def _memory_bars(one: Entry, title: str) -> figures.BarChart | None:
    values = [
        figures.Value(row["label"], used / 1e6, style(row, _models(one)))
        for row in _models(one)
        if row["name"] in PAPER and (used := peak(row))
    ]
    printed = (one["paper"] or {}).get("memory") or {}
    values += [
        figures.Value(said, printed[name] / 1e6, figures.BASELINE)
        for name, said in PAPER.items()
        if printed.get(name)
    ]
    return figures.bar_chart(title, values, unit="MB", digits=0) if values else None


def _models(one: Entry) -> list[Row]:
    return [row for row in one["rows"] if row["kind"] != "baseline"]


def _title(one: Entry) -> str:
    return describe(one, ["backbone", "perspectives"])


def _titles(members: Sequence[Entry]) -> list[str]:
    """Backbone, perspectives, and what else sets charts apart."""
    more = labels(members, told=["backbone", "perspectives"])
    return [", ".join(filter(None, (_title(one), rest))) for one, rest in zip(members, more, strict=True)]


def _top(one: Entry, metric: str) -> float:
    """The longest bar of a cell, in percent."""
    ours = [row["metrics"][metric] for row in _models(one)]
    printed = [(one["paper"] or {}).get(name, {}).get(metric, 0.0) for name in PAPER]
    return 100 * float(max([*(found["mean"] + found["std"] for found in ours), *printed]))


def _by(members: Sequence[Entry], *names: str) -> list[list[Entry]]:
    """Cells that agree in these axes, together."""
    found: dict[str, list[Entry]] = {}
    for one in members:
        found.setdefault(str([one["axes"].get(name) for name in names]), []).append(one)
    return list(found.values())


def _names(members: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(row["name"] for one in members for row in _models(one)))


def _line(name: str, members: Sequence[Entry], metric: str) -> figures.Series:
    points, spread, label, look = [], [], name, 0
    for one in members:
        for row in _models(one):
            if row["name"] == name:
                found = row["metrics"][metric]
                points.append((float(one["axes"]["f"]), 100 * found["mean"]))
                spread.append(100 * found["std"])
                label, look = row["label"].partition(", ")[2] or row["label"], style(row, _models(one))
    return figures.Series(label, points, look, spread)


def _printed(members: Sequence[Entry], metric: str) -> list[figures.Series]:
    """The paper's own line, none if it has no point."""
    points = [
        (float(one["axes"]["f"]), 100 * printed[metric])
        for one in members
        if metric in (printed := (one["paper"] or {}).get("llm", {}))
    ]
    return [figures.Series(PAPER["llm"], points, figures.BASELINE)] if points else []
