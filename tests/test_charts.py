"""Charts of the page: true to the numbers, legible in both colour schemes, told apart by more than colour."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from xml.etree import ElementTree as ET

import pytest

from llm4sbr.report.page import charts
from llm4sbr.report.page.looks import KNOWN, LOOKS, VARIABLES, look_of


def luminance(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def scheme(place: int) -> dict[str, str]:
    """Variables of the style sheet: 0 light, 1 dark."""
    style = files("llm4sbr.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})\b", style.split("@media")[place]))


def test_contrast_is_known() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("place", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_in_both_schemes(place: int) -> None:
    colours = scheme(place)
    for ground in ("--bg", "--raised", "--warn-bg", "--mark"):
        assert contrast(colours["--ink"], colours[ground]) >= 7
    for text, ground in (("--soft", "--bg"), ("--soft", "--mark"), ("--link", "--bg")):
        assert contrast(colours[text], colours[ground]) >= 4.5
    for look in LOOKS:
        assert contrast(colours[VARIABLES[look.colour]], colours["--bg"]) >= 3


def test_what_is_drawn_in_light_mode_is_what_the_style_sheet_has() -> None:
    light = scheme(0)
    assert {variable: light[variable] for variable in VARIABLES.values()} == {
        variable: colour for colour, variable in VARIABLES.items()
    }


def test_series_differ_by_more_than_colour() -> None:
    assert len(set(LOOKS)) == len(LOOKS)
    known = [LOOKS[place] for place in KNOWN.values()]
    assert len({look.marker for look in known}) == len(known)
    others = ["plain", "llm", "predictor", "second"]
    assert len({look_of(name, others) for name in others}) == len(others)
    drawn = {str(charts.legend_key(look)) for look in LOOKS}
    assert len(drawn) == len(LOOKS)


def dots(*values: tuple[float, float]) -> charts.Chart:
    """Rows of values and deviations, compared with the first."""
    made = [
        charts.Dot(f"model {place}", value, LOOKS[place], spread)
        for place, (value, spread) in enumerate(values)
    ]
    return charts.dot_chart("t", made, unit="u", reference=values[0][0])


def uses(svg: str, style: str) -> list[tuple[float, float]]:
    """Where markers of this colour variable stand."""
    root = ET.fromstring(svg)
    found = [one for one in root.iter("use") if style in one.attrib.get("style", "")]
    return [(float(one.attrib["x"]), float(one.attrib["y"])) for one in found]


def marker_x(svg: str, variable: str) -> float:
    """Where the dot of this colour stands."""
    return uses(svg, f"fill: var({variable}); stroke: var({variable})")[-1][0]


def test_dots_stand_to_scale_and_the_axis_spans_the_values() -> None:
    svg = str(dots((10.0, 0.5), (12.0, 0.5), (11.0, 0.5)).svg)
    first, second, third = (marker_x(svg, variable) for variable in ("--ink", "--c1", "--c2"))
    assert third - first == pytest.approx((second - first) / 2, abs=0.1)
    width = float(ET.fromstring(svg).attrib["viewBox"].split()[2])
    assert second - first > 0.6 * width  # of 9.5 to 12.5; from 0 it would be a sixth


def test_rows_say_their_label_and_number_and_the_whole_is_told_in_words() -> None:
    chart = dots((10.0, 0.5), (12.0, 0.0))
    texts = [one.text for one in ET.fromstring(str(chart.svg)).iter("text")]
    assert {"model 0", "10.00 ± 0.50", "model 1", "12.00"} <= set(texts)
    root = ET.fromstring(str(chart.svg))
    assert root.attrib["role"] == "img"
    assert [(one.tag, one.text) for one in root][:2] == [
        ("title", "t, u"),
        ("desc", "model 0 10.00 ± 0.50; model 1 12.00"),
    ]


def test_lines_stand_to_scale_and_the_kept_epoch_is_ringed() -> None:
    series = charts.Series("s", [(0, 0.0), (1, 5.0), (4, 10.0)], LOOKS[1], best=2)
    svg = str(charts.line_chart("t", [series], unit="u", x_label="x").svg)
    (x0, y0), (x1, y1), (x2, y2) = uses(svg, "stroke: var(--c1)")[-3:]
    assert (x1 - x0) * 4 == pytest.approx(x2 - x0, abs=0.5)
    assert (y0 - y1) * 2 == pytest.approx(y0 - y2, abs=0.5)
    assert (x2, y2) in uses(svg, "stroke: var(--ink)")
    assert "s, by x: 0: 0.00, 1: 5.00, 4: 10.00 (ringed)" in svg


def test_whiskers_at_one_place_stand_side_by_side() -> None:
    both = [
        charts.Series(name, [(0, 1.0), (5, 2.0)], LOOKS[place], [0.5, 0.5]) for place, name in enumerate("ab")
    ]
    one, other = charts._offsets(both)
    assert 0 < other - one < 0.5
    alone = [both[0], both[1]._replace(spread=())]
    assert charts._offsets(alone) == [0, 0]


@pytest.mark.parametrize("values", [[(0.0, 0.0)], [(3.0, 0.0), (3.0, 0.0)], [(0.0, 0.0), (0.0, 0.0)]])
def test_equal_values_can_be_drawn(values: list[tuple[float, float]]) -> None:
    assert "nan" not in str(dots(*values).svg)


def test_a_hostile_name_is_text_and_colours_in_it_stay() -> None:
    name = "<b>$x_2 #0072b2 \u6587</b> & $$"
    svg = str(charts.dot_chart(name, [charts.Dot(name, 1.0, LOOKS[1])], unit="&").svg)
    root = ET.fromstring(svg)
    assert not list(root.iter("b"))
    assert name in {one.text for one in root.iter("text")}
    assert (root.findtext("title") or "").startswith(name)


def test_nothing_in_a_chart_refers_outside_and_names_are_its_own() -> None:
    one, two = (str(dots((value, 0.1), (2.0, 0.1)).svg) for value in (1.0, 1.5))
    found = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, two)]
    assert found[0]
    assert not found[0] & found[1]
    for svg, names in zip((one, two), found, strict=True):
        assert set(re.findall(r"#([\w-]+)", svg.replace("&#", ""))) <= names
        assert "http" not in svg


def test_only_a_report_loads_the_library() -> None:
    code = "import sys, llm4sbr.cli, llm4sbr.pipeline, llm4sbr.experiments.runner, "
    code += "llm4sbr.report.terminal.stages; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
