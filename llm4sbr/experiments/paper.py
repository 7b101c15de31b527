"""The paper's published results (`paper.json`), for cells that are comparable with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

FULL = ["long", "short"]
"""The perspectives of the paper's complete method."""


@cache
def printed() -> dict[str, Any]:
    """Tables 2 and 3 and the numbers in the text about Figure 5, in percent and MB, with their source."""
    text = files("llm4sbr.experiments").joinpath("paper.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def figures(
    axes: Mapping[str, Any], metrics: Mapping[str, Any], stats: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The paper's results for a cell, as fractions: `plain` and `llm` -> metric -> value, and `source`.

    None unless the cell has the paper's protocol, one of its data sets in full, and one of its backbones.
    Table 2's results with intents are for both perspectives and f = 5; for another f, Figure 5's text is
    used. `memory` has Table 3, in bytes.

    Args:
        axes: the cell's axes.
        metrics: content of its `metrics.json`.
        stats: content of its `stats.json`.
    """
    known = _dataset(stats) if metrics.get("protocol") == "paper" else None
    found = known["table2"].get(axes["backbone"]) if known else None
    if known is None or found is None:
        return None
    rows = {"plain": found["plain"]}
    if axes["perspectives"] == FULL and axes.get("part", "whole") == "whole":
        figure5 = known["figure5"].get(str(axes["f"])) if axes["backbone"] == "sr-gnn" else None
        intents = found["llm"] if axes["f"] == 5 else figure5
        rows |= {"llm": intents} if intents else {}
    memory = known["table3"].get(axes["backbone"], {})
    fractions = {
        name: {metric: round(value / 100, 6) for metric, value in row.items()} for name, row in rows.items()
    }
    in_bytes = {name: value * 1_000_000 for name, value in memory.items()}
    return {**fractions, "memory": in_bytes, "source": printed()["source"]}


def notes(metrics: Mapping[str, Any], stats: Mapping[str, Any]) -> list[str]:
    """Remarks without which a cell's numbers would be misunderstood."""
    rules = stats["rules"]
    if rules["split"] == "paper" and rules["train_prefixes"] == "all":
        return [
            "The paper's split leaks here: prefixes of one history are in both parts, so that much of a test "
            "session was seen in training; the default protocol has no such leak."
        ]
    return []


def _dataset(stats: Mapping[str, Any]) -> dict[str, Any] | None:
    """The paper's data set with exactly this number of items and clicks."""
    size = (stats["items"], stats["clicks"])
    every = printed()["datasets"].values()
    return next((one for one in every if (one["items"], one["clicks"]) == size), None)
