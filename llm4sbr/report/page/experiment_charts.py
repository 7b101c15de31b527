"""Charts of an experiment: backbones or ablations as dots, metrics against f as lines, memory as dots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from llm4sbr.report.cells import Entry, describe, labels
from llm4sbr.report.page import charts
from llm4sbr.report.page.looks import BASELINE, Look, row_look
from llm4sbr.report.page.results import dot
from llm4sbr.report.results import peak
from llm4sbr.report.table import Row

PAPER = {"plain": "paper, plain", "llm": "paper, with intents"}
"""Row -> name of the paper's corresponding result."""

MEMORY = "Ours: GPU memory if there is a GPU, else memory of the process. The paper's: GPU memory."


class Charts(NamedTuple):
    """The charts of one data set and protocol."""

    rows: Sequence[tuple[str, Sequence[charts.Chart]]]
    """By metric: its name, and charts to show next to each other."""
    note: str
    legend: Sequence[tuple[str, Markup]] = ()
    """For line charts: labels, each with a piece of the line as SVG."""


def backbones(members: Sequence[Entry], k: int) -> Charts:
    """Per cell the metrics of all its models, with the paper's."""
    rows = []
    for metric in (f"HR@{k}", f"MRR@{k}"):
        dots = [_cell_dots(one, metric) for one in members]
        limits = charts.span([(one.value, one.spread) for several in dots for one in several])
        titled = zip(dots, members, _titles(members), strict=True)
        rows.append(
            (metric, [_dot_chart(title, found, one, metric, limits=limits) for found, one, title in titled])
        )
    grey = " Grey: the paper's own figures." if any(one["paper"] for one in members) else ""
    return Charts(rows, f"Hollow: controls. Dotted: the plain backbone.{grey} One scale per metric.")


def ablation(members: Sequence[Entry], k: int) -> Charts:
    """Per backbone the metrics of the method's parts, between the plain backbone and the controls."""
    together = _by(members, "backbone", "f")
    rows = [(metric, [_part_chart(same, metric) for same in together]) for metric in (f"HR@{k}", f"MRR@{k}")]
    return Charts(rows, "Hollow: controls, those of the whole method. Dotted: the plain backbone.")


def localization(members: Sequence[Entry], k: int) -> Charts:
    """Per backbone a line for each variant against f."""
    rows: list[tuple[str, list[charts.Chart]]] = []
    legend: dict[str, Look] = {}
    for metric in (f"HR@{k}", f"MRR@{k}"):
        drawn = []
        for same in _by(members, "backbone", "perspectives"):
            ordered = sorted(same, key=lambda one: float(one["axes"]["f"]))
            series = [*(_line(name, ordered, metric) for name in _names(ordered)), *_printed(ordered, metric)]
            names = {float(one["axes"]["f"]): str(one["axes"]["f"]) for one in ordered}
            legend |= {one.label: one.look for one in series}
            unit = f"{metric}, percent"
            drawn.append(charts.line_chart(_title(same[0]), series, unit=unit, x_label="f", x_names=names))
        rows.append((metric, drawn))
    note = "f: items that an answer is tied to; 0 keeps the raw answer. Whiskers: deviation over seeds."
    return Charts(rows, note, [(label, charts.legend_key(look)) for label, look in legend.items()])


def memory(members: Sequence[Entry], k: int) -> Charts:
    """Per cell the peak memory of training, plain and with intents."""
    titled = zip(members, _titles(members), strict=True)
    drawn = [chart for one, title in titled if (chart := _memory_chart(one, title))]
    return Charts([("Peak memory", drawn)], MEMORY)


CHARTS: dict[str, Callable[[Sequence[Entry], int], Charts]] = {
    "table2": backbones,
    "ablation": ablation,
    "localization": localization,
    "memory": memory,
    "related": backbones,
}
"""Kind of experiment -> its charts for the cells (at least one) of one data set and protocol."""


def _cell_dots(one: Entry, metric: str) -> list[charts.Dot]:
    printed = one["paper"] or {}
    return [dot(row, metric, _models(one)) for row in _models(one)] + [
        charts.Dot(label, 100 * printed[name][metric], BASELINE)
        for name, label in PAPER.items()
        if metric in printed.get(name, {})
    ]


def _dot_chart(
    title: str,
    dots: Sequence[charts.Dot],
    one: Entry,
    metric: str,
    *,
    limits: tuple[float, float] | None = None,
) -> charts.Chart:
    """With the cell's plain backbone as the value to compare with."""
    plain = next(
        (100 * row["metrics"][metric]["mean"] for row in _models(one) if row["name"] == "plain"), None
    )
    return charts.dot_chart(title, dots, unit=f"{metric}, percent", limits=limits, reference=plain)


def _part_chart(same: Sequence[Entry], metric: str) -> charts.Chart:
    whole = next((one for one in same if one["axes"].get("part") == "whole"), same[0])
    plain, controls = (
        [
            dot(row, metric, _models(whole))
            for row in _models(whole)
            if row["kind"] == kind and row["name"] != "llm"
        ]
        for kind in ("plain", "control")
    )
    parts = [
        dot(row, metric, _models(one))._replace(label=f"intents, {part or one['axes'].get('part', 'whole')}")
        for one, part in zip(same, labels(same, omit=["backbone", "f"]), strict=True)
        for row in _models(one)
        if row["name"] == "llm"
    ]
    return _dot_chart(
        describe(whole, ["backbone", *_varied(whole)]), [*plain, *parts, *controls], whole, metric
    )


def _memory_chart(one: Entry, title: str) -> charts.Chart | None:
    dots = [
        charts.Dot(row["label"], used / 1e6, row_look(row, _models(one)))
        for row in _models(one)
        if row["name"] in PAPER and (used := peak(row))
    ]
    printed = (one["paper"] or {}).get("memory") or {}
    dots += [
        charts.Dot(label, printed[name] / 1e6, BASELINE) for name, label in PAPER.items() if printed.get(name)
    ]
    return charts.dot_chart(title, dots, unit="MB", digits=0) if dots else None


def _models(one: Entry) -> list[Row]:
    return [row for row in one["rows"] if row["kind"] != "baseline"]


def _title(one: Entry) -> str:
    return describe(one, ["backbone", "perspectives", *_varied(one)])


def _varied(one: Entry) -> list[str]:
    """Axes that are settings, by their dotted keys."""
    return [name for name in one["axes"] if "." in name]


def _titles(members: Sequence[Entry]) -> list[str]:
    """Backbone, perspectives, and what else distinguishes charts."""
    more = labels(members, omit=["backbone", "perspectives", *_varied(members[0])])
    return [", ".join(filter(None, (_title(one), rest))) for one, rest in zip(members, more, strict=True)]


def _by(members: Sequence[Entry], *names: str) -> list[list[Entry]]:
    """Groups of cells that are equal in these axes and in the settings that are varied."""
    found: dict[str, list[Entry]] = {}
    for one in members:
        same = [one["axes"].get(name) for name in (*names, *_varied(one))]
        found.setdefault(str(same), []).append(one)
    return list(found.values())


def _names(members: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(row["name"] for one in members for row in _models(one)))


def _line(name: str, members: Sequence[Entry], metric: str) -> charts.Series:
    points, spread, label, look = [], [], name, BASELINE
    for one in members:
        for row in _models(one):
            if row["name"] == name:
                found = row["metrics"][metric]
                points.append((float(one["axes"]["f"]), 100 * found["mean"]))
                spread.append(100 * found["std"])
                label, look = row["label"].partition(", ")[2] or row["label"], row_look(row, _models(one))
    return charts.Series(label, points, look, spread)


def _printed(members: Sequence[Entry], metric: str) -> list[charts.Series]:
    """The paper's line; none if it has no point."""
    points = [
        (float(one["axes"]["f"]), 100 * printed[metric])
        for one in members
        if metric in (printed := (one["paper"] or {}).get("llm", {}))
    ]
    return [charts.Series(PAPER["llm"], points, BASELINE)] if points else []
