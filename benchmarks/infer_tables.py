"""Tables of `benchmarks/README.md` about asking the LLM, from the results of `infer.py` and `driver.py`."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from tables import machine, section, table, versions

WAYS = {
    "one": "one prompt at a time",
    "batched": "in batches, as they come",
    "sorted": "batches by length",
    "shared": "shared beginning once",
    "once": "equal prompts once",
}
"""Each way includes the steps of those before it."""
SETS = ("distinct", "repeated")


def infer_section() -> str:
    """Rates, then the driver's memory."""
    rates, memory = section("infer", infer_part), section("driver", driver_part)
    return f"### Prompts per second\n\n{rates}\n\n### Memory\n\n{memory}"


def infer_part(found: dict[str, Any]) -> str:
    """Prompts per second in every way, and each step's share of the total gain."""
    sets = "; ".join(
        f"{name}: {one['prompts']:,} prompts, {one['distinct']:,} of them distinct, "
        f"{one['tokens'] / one['prompts']:.0f} tokens on average"
        for name, one in found["sets"].items()
    )
    heads = ["set", "threads", "asked", "prompts/s", "times the way before", "times one at a time"]
    heads += ["share of the gain", "answers as alone"]
    lines: list[list[str]] = []
    for threads in dict.fromkeys(row["threads"] for row in found["rows"]):
        for name in SETS:
            rows = {
                row["way"]: row for row in found["rows"] if (row["set"], row["threads"]) == (name, threads)
            }
            lines += _lines(rows, found["sets"][name]["prompts"])
    return f"`{found['command']}`\n\n{_circumstances(found)} {sets}.\n\n" + table(heads, lines)


def _lines(rows: dict[str, Any], prompts: int) -> list[list[str]]:
    lines, before, first = [], rows["one"], rows["one"]
    whole = _ratio(first, rows["once"])
    for way, title in WAYS.items():
        row = rows[way]
        clock = _clock(row)
        rate = median(prompts / one[clock] for one in row["rounds"])
        cells = [row["set"], str(row["threads"]), ("+ " if way != "one" else "") + title, f"{rate:.2f}"]
        step, total = _ratio(before, row), _ratio(first, row)
        share = f"{math.log(step) / math.log(whole):.0%}" if whole > 1 else ""
        cells += ["", "", ""] if way == "one" else [f"{step:.2f}", f"{total:.2f}", share]
        cells.append(f"{median(one['same'] for one in row['rounds']):.0%}")
        lines.append(cells)
        before = row
    return lines


def _ratio(one: dict[str, Any], other: dict[str, Any]) -> float:
    clock = _clock(one)
    return median(float(a[clock] / b[clock]) for a, b in zip(one["rounds"], other["rounds"], strict=True))


def _clock(row: dict[str, Any]) -> str:
    return "cpu" if row["threads"] == 1 else "wall"


def _circumstances(found: dict[str, Any]) -> str:
    about = f" {found['fingerprint']}." if "fingerprint" in found else ""
    return f"{machine(found)}, load {found['load']:.1f}; {versions(found)}.{about}"


def driver_part(found: dict[str, Any]) -> str:
    """Memory of the process that runs `infer`."""
    heads = ["prompts", "engine", "minutes", "prompts/s", *PARTS.values(), "answer cache"]
    lines = []
    for row in found["rows"]:
        own = {
            name: max((row["peaks"][part] for part in parts if part in row["peaks"]), default=0)
            for name, parts in GROUPS.items()
        }
        cells = [f"{row['prompts']:,}", row["engine"], f"{row['seconds'] / 60:.1f}"]
        cells += [f"{row['prompts'] / row['seconds']:,.0f}"]
        cells += [f"{(own[name] - row['before']) / 2**20:.0f} MB" for name in PARTS]
        cells.append(f"{row['cache'] / 2**20:,.0f} MB")
        lines.append(cells)
    return (
        f"`{found['command']}`\n\n{_circumstances(found)} Peaks of the driver's own memory, in every part of "
        f"the stage, beyond the {found['rows'][0]['before'] / 2**20:.0f} MB that it has before.\n\n"
        + table(heads, lines)
    )


PARTS = {"load": "reading the log", "plan": "planning", "ask": "asking", "write": "tables and controls"}
GROUPS = {
    "load": ("load",),
    "plan": ("infer: planning", "after infer: planning"),
    "ask": ("infer",),
    "write": ("after infer",),
}
"""Part -> the labels under which `driver.py` has seen it."""
