"""Colour, marker and dash of each series in all charts; series never differ by colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llm4sbr.report.table import Row

INK, SOFT, RULE = "#1a1a1a", "#595959", "#d9d9d4"
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    RULE: "--rule",
    "#0072b2": "--c1",
    "#d55e00": "--c2",
    "#009e73": "--c3",
    "#cc79a7": "--c4",
    "#767676": "--c5",
}
"""Colour (Okabe and Ito, light mode) -> variable of `style.css`, which also has a dark mode."""


class Look(NamedTuple):
    """Colour, marker and dash, in matplotlib's notation."""

    colour: str
    marker: str
    dash: str


LOOKS = (
    Look(INK, "o", "-"),
    Look("#0072b2", "s", "-"),
    Look("#d55e00", "^", "--"),
    Look("#009e73", "D", ":"),
    Look("#cc79a7", "v", "-."),
    Look("#767676", "o", "-"),
    Look("#0072b2", "^", "--"),
    Look("#d55e00", "D", ":"),
)
KNOWN = {"plain": 0, "llm": 1, "item-text": 2, "shuffled": 3, "none": 4}
"""Position in `LOOKS` of these variants, so that each looks the same in all charts."""
BASELINE = LOOKS[5]
"""Look of rows without a trained model, and of the paper's results."""


def look_of(name: str, others: Sequence[str]) -> Look:
    """The look of a variant: its own in `KNOWN`, else one by its position among the `others`."""
    if name in KNOWN:
        return LOOKS[KNOWN[name]]
    spare = [other for other in others if other not in KNOWN]
    first = len(KNOWN) + 1
    return LOOKS[first + spare.index(name) % (len(LOOKS) - first)]


def row_look(row: Row, rows: Sequence[Row]) -> Look:
    """The look of a row of the results."""
    if row["kind"] == "baseline":
        return BASELINE
    return look_of(row["name"], [one["name"] for one in rows if one["kind"] != "baseline"])
