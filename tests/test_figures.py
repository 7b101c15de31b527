"""Figures of the HTML report: to scale, legible, and told apart by more than colour."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.report.page import figures
from llm4sbr.report.page.write import environment


def luminance(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_known() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_in_both_schemes(scheme: int) -> None:
    style = files("llm4sbr.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", style.split("@media")[scheme]))
    for ground in ("bg", "raised", "warn-bg", "mark"):
        assert contrast(colours["ink"], colours[ground]) >= 7
    assert contrast(colours["soft"], colours["bg"]) >= 4.5
    assert contrast(colours["soft"], colours["mark"]) >= 4.5
    assert contrast(colours["link"], colours["bg"]) >= 4.5
    for number in range(figures.STYLES):
        assert contrast(colours[f"c{number}"], colours["bg"]) >= 3


def test_series_differ_by_more_than_colour() -> None:
    draw = environment().get_template("figures.html.j2").module
    looks = set()
    for style in range(figures.STYLES):
        marker = draw.marker(style, 0, 0)  # type: ignore[attr-defined]
        thread = draw.thread(style, [(0, 0)])  # type: ignore[attr-defined]
        looks.add((str(marker), str(thread)))
    assert len(looks) == figures.STYLES
    assert len({marker for marker, _ in looks}) == 5


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_enclose(low: float, width: float) -> None:
    found = figures.ticks(low, low + width)
    steps = [after - before for before, after in pairwise(found)]
    assert 2 <= len(found) <= 7
    assert found[0] <= low + 1e-6 * width
    assert found[-1] >= low + width - 1e-6 * width
    assert all(step == pytest.approx(steps[0], rel=1e-4) for step in steps)


def test_charts_are_laid_out_to_scale() -> None:
    bars = figures.bar_chart("t", [figures.Value("a", 10, 0, 2.0), figures.Value("b", 6, 1)], unit="u").bars
    assert bars[1].length == pytest.approx(bars[0].length * 0.6, abs=0.1)
    low, high = bars[0].whisker or (0, 0)
    assert (low, high) == pytest.approx((bars[0].length * 0.8, bars[0].length * 1.2), abs=0.2)
    assert high <= figures.WIDTH
    series = [figures.Series("s", [(0, 0.0), (1, 5.0), (4, 10.0)], 0, best=2)]
    (line,) = figures.line_chart("t", series, unit="u", x_label="x").lines
    (x0, y0), (x1, y1), (x2, y2) = line.points
    assert (x1 - x0) * 4 == pytest.approx(x2 - x0, abs=0.5)
    assert (y0 - y1) * 2 == pytest.approx(y0 - y2, abs=0.5)
    assert line.best == (x2, y2)


def test_whiskers_at_one_place_stand_side_by_side() -> None:
    both = [figures.Series(name, [(0, 1.0), (5, 2.0)], place, [0.5, 0.5]) for place, name in enumerate("ab")]
    one, other = figures.line_chart("t", both, unit="u", x_label="f").lines
    assert [x for x, _, _ in one.whiskers] == [x for x, _ in one.points]
    assert [right - left for (left, _), (right, _) in zip(one.points, other.points, strict=True)] == [5, 5]
    alone = [both[0], both[1]._replace(spread=())]
    first, second = figures.line_chart("t", alone, unit="u", x_label="f").lines
    assert [x for x, _ in first.points] == [x for x, _ in second.points]


def test_an_unknown_variant_never_looks_like_a_known_one() -> None:
    others = ["plain", "llm", "predictor", "second"]
    styles = [figures.style_of(name, others) for name in others]
    assert len(set(styles)) == len(others)
