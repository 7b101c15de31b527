"""The table of `benchmarks/README.md` about serving, from what `serving.py` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

LIMITS = {"p90 < 7 ms": 0.007, "p90 < 50 ms": 0.05}
"""Serenade's figure and ETUDE's limit, seconds."""


def serving_section() -> str:
    """Circumstances and table, or that there are none yet."""
    path = RESULTS / "serving.json"
    if not path.exists():
        return "Not measured yet."
    found = json.loads(path.read_text("utf-8"))
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    load = max(row["load"] for row in found["rows"])
    return (
        f"{found['model']}; sessions: {found['sessions']}; load: {found['offered']}. {found['cpu']}, "
        f"{found['cores']} cores shared by server and load, load average before each row up to {load:.1f}; "
        f"`{found['server']}`; {versions}; seed {found['seed']}.\n\n"
        f"`{found['command']}`\n\n{serving_table(found)}"
    )


def serving_table(found: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = [
        "| items | precision | highest rate, p90 < 7 ms | highest rate, p90 < 50 ms | seconds to ready "
        "| memory | sustained: rate, p50 / p90 / p99 ms, errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        long = row.get("sustained")
        cells = [f"{row['items']:,}", row["precision"]]
        cells += [f"{row['highest_rate'][name]:,.0f}/s" for name in LIMITS]
        cells += [f"{row['seconds_to_ready']:.1f}", f"{row['server_peak_memory'] / 2**20:.0f} MB"]
        cells += [
            f"{long['rate']:,.0f}/s for {long['seconds']:.0f} s: {long['p50']:.1f} / {long['p90']:.1f} / "
            f"{long['p99']:.1f}, {long['errors']}"
            if long
            else ""
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
