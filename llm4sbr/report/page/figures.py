"""Figures of the HTML report: where every line, bar and tick goes. The template `figures.html.j2` draws them.

Small multiples of one width, so that a page shows as many side by side as fit and one below the other on a
phone. What tells series apart is never colour alone: each has a marker and a dash, each bar a label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH = 340
"""Of every figure, in pixels of its own coordinates."""
HEIGHT = 220
"""Of a line chart."""
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
"""Margins of a line chart's plotting area."""
DODGE = 5
"""Pixels between whiskers of different series at one x."""
BAR = 34
"""Height of a bar with its label."""

STYLES = 8
"""Styles in `style.css` and `figures.html.j2`: colour, marker and dash."""
KNOWN_STYLES = {"plain": 0, "llm": 1, "item-text": 2, "shuffled": 3, "none": 4}
"""The same variant looks the same in every figure."""
BASELINE = 5
"""The style of every row without a trained model."""

Point = tuple[float, float]
"""x and y, in the figure's coordinates or the data's."""


class Tick(NamedTuple):
    """A place on an axis, and what stands there."""

    at: float
    text: str


class Series(NamedTuple):
    """Data of one line."""

    label: str
    points: Sequence[Point]
    """By x."""
    style: int
    spread: Sequence[float] = ()
    """Deviation of each y; empty if unknown."""
    best: int | None = None
    """Which point to ring."""


class Line(NamedTuple):
    """A line ready to draw."""

    label: str
    style: int
    points: list[Point]
    whiskers: list[tuple[float, float, float]]
    """x, lower y, upper y."""
    best: Point | None


class LineChart(NamedTuple):
    """A line chart ready to draw."""

    title: str
    text: str
    """What it shows, in words and numbers."""
    unit: str
    """Of the y axis."""
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]


class Value(NamedTuple):
    """Data of one bar."""

    label: str
    value: float
    style: int
    spread: float = 0.0
    control: bool = False
    """Drawn hatched."""
    note: str = ""
    """Behind the label, such as whose figure it is."""


class Bar(NamedTuple):
    """A bar ready to draw."""

    label: str
    note: str
    style: int
    control: bool
    top: float
    length: float
    whisker: tuple[float, float] | None
    """From x to x; None without deviation."""
    shown: str


class BarChart(NamedTuple):
    """A bar chart ready to draw."""

    title: str
    text: str
    unit: str
    height: float
    bars: list[Bar]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str,
    x_label: str,
    x_names: Mapping[float, str] | None = None,
    limits: Point | None = None,
    digits: int = 2,
) -> LineChart:
    """Lay out a line chart.

    Args:
        title: of the figure.
        series: at least one point among them.
        unit: what the y axis shows.
        x_label: name of the x axis.
        x_names: x -> its tick; by default round numbers.
        limits: of the y axis, for charts to be compared; by default what is there.
        digits: decimals in the text alternative.
    """
    xs = [x for one in series for x, _ in one.points]
    low, high = limits or y_limits(series)
    y_marks = ticks(low, high)
    low, high = min(low, y_marks[0]), max(high, y_marks[-1])
    x_marks = sorted(x_names) if x_names else [mark for mark in ticks(min(xs), max(xs)) if mark >= min(xs)]
    left, right = min([*xs, *x_marks]), max([*xs, *x_marks])
    pad = 4 + 3 * max(len(name) for name in (x_names or {0: "00"}).values())  # half of a tick's text

    def x_at(x: float) -> float:
        share = (x - left) / (right - left) if right > left else 0.5
        return round(LEFT + pad + share * (WIDTH - LEFT - RIGHT - 2 * pad), 1)

    def y_at(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - BOTTOM - TOP), 1)

    lines = []
    for one, aside in zip(series, _dodges(series), strict=True):
        points = [(round(x_at(x) + aside, 1), y_at(y)) for x, y in one.points]
        ends = zip(points, one.points, one.spread or [0.0] * len(points), strict=True)
        whiskers = [(x, y_at(max(low, y - s)), y_at(min(high, y + s))) for (x, _), (_, y), s in ends if s]
        best = points[one.best] if one.best is not None else None
        lines.append(Line(one.label, one.style, points, whiskers, best))
    names = x_names or {mark: number(mark) for mark in x_marks}
    x_ticks = [Tick(x_at(mark), names[mark]) for mark in x_marks]
    y_ticks = [Tick(y_at(mark), number(mark)) for mark in y_marks]
    text = _in_words(series, x_label, names, digits)
    return LineChart(title, text, unit, x_label, x_ticks, y_ticks, lines)


def bar_chart(
    title: str, values: Sequence[Value], *, unit: str, longest: float | None = None, digits: int = 2
) -> BarChart:
    """Lay out horizontal bars from zero, at least one.

    Args:
        title: of the figure.
        values: one a bar.
        unit: of the values.
        longest: value of a bar as long as the figure, for charts to be compared; by default what is there.
        digits: decimals of the values.
    """
    longest = longest or max(value.value + value.spread for value in values) or 1.0
    scale = (WIDTH - 2) / longest
    bars = []
    for place, one in enumerate(values):
        whisker = None
        if one.spread:
            ends = (one.value - one.spread, one.value + one.spread)
            whisker = (round(max(0.0, ends[0]) * scale, 1), round(ends[1] * scale, 1))
        shown = f"{one.value:.{digits}f}" + (f" ± {one.spread:.{digits}f}" if one.spread else "")
        length = round(max(0.0, one.value) * scale, 1)
        bars.append(
            Bar(_short(one.label), one.note, one.style, one.control, place * BAR, length, whisker, shown)
        )
    text = "; ".join(
        f"{one.label} {one.note} {bar.shown}".replace("  ", " ")
        for one, bar in zip(values, bars, strict=True)
    )
    return BarChart(title, text, unit, len(bars) * BAR, bars)


def y_limits(series: Sequence[Series]) -> Point:
    """From the lowest to the highest value of all series, deviations included; never empty."""
    ends = [
        y + sign * spread
        for one in series
        for (_, y), spread in zip(one.points, one.spread or [0.0] * len(one.points), strict=True)
        for sign in (-1, 1)
    ]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    if min((y for one in series for _, y in one.points), default=0.0) >= 0:
        low = max(low, 0.0)
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def ticks(low: float, high: float, *, count: int = 4) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten), about `count` steps, that enclose `low` to `high`."""
    if high <= low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def style_of(name: str, others: Sequence[str]) -> int:
    """The style of a variant: its own, or a spare one by its place among the `others` without their own."""
    if name in KNOWN_STYLES:
        return KNOWN_STYLES[name]
    spare = [other for other in others if other not in KNOWN_STYLES]
    first = len(KNOWN_STYLES)
    return first + spare.index(name) % (STYLES - first)


def number(value: float) -> str:
    """Without needless zeros."""
    return f"{value:.10g}"


def _short(label: str) -> str:
    """So much that a value fits behind it."""
    return label if len(label) <= 38 else f"{label[:37]}…"


def _dodges(series: Sequence[Series]) -> list[float]:
    """How far aside each series stands, so that whiskers at one x do not cover each other."""
    crowded = sum(any(one.spread) for one in series) > 1
    return [DODGE * (place - (len(series) - 1) / 2) * crowded for place in range(len(series))]


def _in_words(series: Sequence[Series], x_label: str, names: Mapping[float, str], digits: int) -> str:
    parts = []
    for one in series:
        pairs = ", ".join(f"{names.get(x, number(x))}: {y:.{digits}f}" for x, y in one.points)
        parts.append(f"{one.label}, by {x_label}: {pairs}")
    return "; ".join(parts)
