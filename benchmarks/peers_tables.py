"""The table of `benchmarks/README.md` that compares with RecBole, from the results of `peers.py`."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from tables import machine, section, table, versions


def peers_section() -> str:
    """Of the results file."""
    return section("peers", peers_part)


def peers_part(found: dict[str, Any]) -> str:
    """Circumstances and table."""
    peer = versions(found["rows"][0]) if found["rows"] else ""
    heads = ["model", "threads", "RecBole", "plain", "times", "with intents", "times"]
    heads += ["RecBole, one list", "exported", "times"]
    return (
        f"{found['measured_samples']:,} samples a round; {found['catalogue']:,} items. {machine(found)}, "
        f"load {found['load']:.1f} at the start; {versions(found)}; RecBole's process: {peer}.\n\n"
        f"`{found['command']}`\n\n{table(heads, [_line(row) for row in found['rows']])}"
    )


def _line(row: dict[str, Any]) -> list[str]:
    clock = "cpu" if row["threads"] == 1 else "wall"  # one thread: other work on the machine counts less
    rounds = row["rounds"]

    def middle(of: Callable[[dict[str, Any]], float]) -> float:
        return median(map(of, rounds))

    cells = [f"{row['backbone']} / {row['peer']}", str(row["threads"])]
    cells.append(f"{middle(lambda one: one['peer'][clock]):,.0f}/s")
    for kind in ("plain", "intents"):
        cells.append(f"{middle(lambda one: one[kind][clock]):,.0f}/s")  # noqa: B023  used at once
        cells.append(f"{middle(lambda one: one[kind][clock] / one['peer'][clock]):.1f}")  # noqa: B023
    cells.append(f"{middle(lambda one: one['peer'][f'list_{clock}']):.2f} ms")
    cells.append(f"{middle(lambda one: one['list'][clock]):.2f} ms")
    return [*cells, f"{middle(lambda one: one['peer'][f'list_{clock}'] / one['list'][clock]):.1f}"]
