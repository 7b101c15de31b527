"""Charts of the page, drawn by matplotlib as inline SVG: dots with standard deviations, and lines.

All have the same width, so that a page shows as many next to each other as fit, and one below the other on a
phone. Axes cover the range of the values and do not begin at 0, to show the differences between models.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from llm4sbr.report.page.looks import INK, RULE, SOFT, VARIABLES, Look

logging.getLogger("matplotlib").setLevel(
    logging.ERROR
)  # matplotlib logs that it builds its font cache, which is of no interest to users

WIDTH = 3.6
"""Width in inches. The page shows charts about as wide as a phone, where 9 points are 12 pixels."""
ROW = 0.36
"""Height in inches of a row of a dot chart, including its label."""
STYLE: Any = {
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "llm4sbr",  # element ids would be random otherwise
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "grid.color": RULE,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
SVG = "http://www.w3.org/2000/svg"


class Dot(NamedTuple):
    """One row of a dot chart."""

    label: str
    value: float
    look: Look
    spread: float = 0.0
    """Standard deviation over seeds, 0 if unknown."""
    hollow: bool = False
    """Whether only the outline is drawn, for a control."""


class Series(NamedTuple):
    """One line."""

    label: str
    points: Sequence[tuple[float, float]]
    """(x, y), ordered by x."""
    look: Look
    spread: Sequence[float] = ()
    """Standard deviation of each y; empty if unknown."""
    best: int | None = None
    """Index of the point to mark with a ring."""


class Chart(NamedTuple):
    """A chart ready to show."""

    title: str
    unit: str
    svg: Markup


def dot_chart(
    title: str,
    dots: Sequence[Dot],
    *,
    unit: str,
    limits: tuple[float, float] | None = None,
    reference: float | None = None,
    digits: int = 2,
) -> Chart:
    """Draw dots in rows, each with its label and its value.

    Args:
        title: title of the chart.
        dots: at least one dot.
        unit: unit of the values.
        limits: range of the axis, for charts that should have the same axis; by default that of the values.
        reference: a value to compare with, drawn as a vertical line.
        digits: number of decimals.
    """
    shown = [
        f"{one.value:.{digits}f}" + (f" ± {one.spread:.{digits}f}" if one.spread else "") for one in dots
    ]
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(ROW * len(dots) + 0.4, left=0.02, bottom=0.3)
        for place, (one, number) in enumerate(zip(dots, shown, strict=True)):
            look = one.look
            axes.errorbar(
                one.value,
                place,
                xerr=one.spread or None,
                fmt=look.marker,
                color=look.colour,
                markerfacecolor="none" if one.hollow else look.colour,
                capsize=3,
            )
            for x, text, side in ((0.0, _short(one.label), "left"), (1.0, number, "right")):
                axes.text(x, place - 0.42, text, transform=axes.get_yaxis_transform(), ha=side, va="center")
        if reference is not None:
            axes.axvline(reference, color=SOFT, linewidth=1, linestyle=":", zorder=0)
        axes.set_ylim(len(dots) - 0.5, -0.8)
        axes.set_xlim(*_padded(limits or span([(one.value, one.spread) for one in dots])))
        axes.yaxis.set_major_locator(FixedLocator([]))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        text = "; ".join(f"{one.label} {number}" for one, number in zip(dots, shown, strict=True))
        return Chart(title, unit, _inline(figure, f"{title}, {unit}", text))


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str,
    x_label: str,
    x_names: Mapping[float, str] | None = None,
    digits: int = 2,
) -> Chart:
    """Draw several lines over one x axis.

    Args:
        title: title of the chart.
        series: the lines, with at least one point in total.
        unit: what the y axis shows.
        x_label: name of the x axis.
        x_names: x -> text of its tick; by default ticks are whole numbers.
        digits: number of decimals in the text alternative.
    """
    with matplotlib.rc_context(STYLE):
        lines = 1 + max(name.count("\n") for name in (x_names or {0: ""}).values())
        figure, axes = _axes(2.1 + 0.14 * lines, left=0.44, bottom=0.3 + 0.14 * lines)
        for one, aside in zip(series, _offsets(series), strict=True):
            xs, ys = [x + aside for x, _ in one.points], [y for _, y in one.points]
            axes.errorbar(
                xs,
                ys,
                yerr=one.spread or None,
                color=one.look.colour,
                linestyle=one.look.dash,
                marker=one.look.marker,
                capsize=2,
            )
            if one.best is not None:
                x, y = xs[one.best], ys[one.best]
                axes.plot(x, y, "o", markerfacecolor="none", markeredgecolor=INK, markersize=11)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if x_names:
            axes.set_xticks(list(x_names), list(x_names.values()))
            axes.margins(x=0.12)  # names take more space than numbers
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(x_label)
        axes.grid(axis="y")
        return Chart(
            title,
            unit,
            _inline(figure, f"{title}, {unit}", _in_words(series, x_label, x_names or {}, digits)),
        )


@lru_cache(maxsize=64)
def legend_key(look: Look) -> Markup:
    """A short line with its marker, for a legend."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.46, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.plot(
            [0, 1, 2], [0, 0, 0], color=look.colour, linestyle=look.dash, marker=look.marker, markevery=[1]
        )
        return _inline(figure)


def span(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Minimum and maximum of the values, including standard deviations."""
    return min(value - spread for value, spread in values), max(value + spread for value, spread in values)


def _padded(limits: tuple[float, float]) -> tuple[float, float]:
    """Extend the range of an axis a little on both sides."""
    low, high = limits
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _axes(height: float, *, left: float, bottom: float) -> tuple[Figure, Axes]:
    """Axes of a new figure, margins in inches; only the lower spine is drawn."""
    right, top = 0.06, 0.06
    figure = Figure(figsize=(WIDTH, height))
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (bottom + top) / height)
    axes = figure.add_axes(box)
    axes.spines[["top", "left", "right"]].set_visible(False)
    return figure, axes


def _short(label: str) -> str:
    """Shorten a long label, so that the number fits on the same line."""
    return label if len(label) <= 34 else f"{label[:33]}…"


def _offsets(series: Sequence[Series]) -> list[float]:
    """Horizontal offset of each series, so that error bars at the same x do not overlap."""
    xs = [x for one in series for x, _ in one.points]
    crowded = sum(any(one.spread) for one in series) > 1
    step = (max(xs) - min(xs)) / 60 if crowded else 0.0
    return [step * (place - (len(series) - 1) / 2) for place in range(len(series))]


def _in_words(series: Sequence[Series], x_label: str, names: Mapping[float, str], digits: int) -> str:
    parts = []
    for one in series:
        points = [f"{_flat(names.get(x, f'{x:g}'))}: {y:.{digits}f}" for x, y in one.points]
        if one.best is not None:
            points[one.best] += " (ringed)"
        parts.append(f"{one.label}, by {x_label}: {', '.join(points)}")
    return "; ".join(parts)


def _flat(name: str) -> str:
    return " ".join(name.split())


def _inline(figure: Figure, title: str = "", text: str = "") -> Markup:
    """Convert the figure to an SVG element for the page.

    Metadata, fixed sizes and unused ids are removed; colours become CSS variables; ids that are referred to
    become unique on the page. With a title, the element is an image with a text alternative.
    """
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # browsers have fonts for glyphs missing in this one
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    source = stream.getvalue()
    prefix = f"c{hashlib.sha256((source + title).encode()).hexdigest()[:8]}"
    root = ET.fromstring(source)
    used = set(re.findall(r"#([\w-]+)[\")]", source))
    for element in root.iter():
        _clean(element, used, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    if title:
        root.set("role", "img")
        for place, (tag, content) in enumerate((("title", title), ("desc", text))):
            part = ET.Element(tag)
            part.text = content
            root.insert(place, part)
    else:
        root.set("aria-hidden", "true")
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False))


def _clean(element: ET.Element, used: set[str], prefix: str) -> None:
    element.tag = element.tag.removeprefix(f"{{{SVG}}}")
    for child in [one for one in element if one.tag.rpartition("}")[2] in ("metadata", "style")]:
        element.remove(child)
    for name in list(element.attrib):
        value = element.attrib.pop(name)
        if name == "id" and value not in used:
            continue
        value = f"{prefix}-{value}" if name == "id" else re.sub(r"(^|url\()#", rf"\1#{prefix}-", value)
        if name == "style":
            for colour, variable in VARIABLES.items():
                value = value.replace(colour, f"var({variable})")
        element.set(name.rpartition("}")[2], value)  # href, whatever its namespace
