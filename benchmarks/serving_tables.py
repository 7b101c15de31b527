"""The table of `benchmarks/README.md` about serving, from the results of `serving.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tables import machine, section, table, versions

RATE = 1000
"""Requests per second to reach."""

LIMITS = {"p90 < 7 ms": 0.007, "p90 < 50 ms": 0.05}
"""Serenade's published latency and ETUDE's limit, in seconds."""


def serving_section() -> str:
    """What has been measured, or that nothing has been."""
    return section("serving", serving_part)


def serving_part(found: dict[str, Any]) -> str:
    """Circumstances and table."""
    load = max(row["load"] for row in found["rows"])
    return (
        f"{found['model']}; sessions: {found['sessions']}; load: {found['offered']}. {machine(found)} "
        f"shared by server and load, load average before each row up to {load:.1f}; "
        f"`{found['server']}`; {versions(found)}; seed {found['seed']}.\n\n"
        f"`{found['command']}`\n\n{aims(found['rows'])}{serving_table(found)}"
    )


def aims(rows: Sequence[dict[str, Any]]) -> str:
    """A line per artefact with a long measurement at the target rate."""
    lines = [
        f"- {row['items']:,} items, {row['precision']}: {RATE:,}/s for {long['seconds']:.0f} s with p90 "
        f"under 7 ms and without an error: {'reached' if long['good'] else 'MISSED'}, "
        f"{'-' if long['p90'] is None else format(long['p90'], '.1f')} ms.\n"
        for row in rows
        if (long := row.get("sustained")) and long["rate"] >= RATE
    ]
    return "".join([*lines, "\n"]) if lines else ""


def serving_table(found: dict[str, Any]) -> str:
    """A line per catalogue size and precision."""
    heads = ["items", "precision", *(f"highest rate, {name}" for name in LIMITS)]
    heads += ["seconds to ready", "memory", "sustained: rate, p50 / p90 / p99 ms, errors"]
    lines = []
    for row in found["rows"]:
        rates = [f"{row['highest_rate'][name]:,.0f}/s" for name in LIMITS]
        memory = f"{row['server_peak_memory'] / 2**20:.0f} MB"
        named = f"{row['precision']}, recall {row['recall']:.4f}" if "recall" in row else row["precision"]
        cells = [f"{row['items']:,}", named, *rates, f"{row['seconds_to_ready']:.1f}", memory]
        lines.append([*cells, _sustained(row.get("sustained"))])
    return table(heads, lines)


def _sustained(long: dict[str, Any] | None) -> str:
    if long is None:
        return ""
    if long["p50"] is None:
        return f"{long['rate']:,.0f}/s: nothing was answered, {long['errors']}"
    times = " / ".join(f"{long[name]:.1f}" for name in ("p50", "p90", "p99"))
    return f"{long['rate']:,.0f}/s for {long['seconds']:.0f} s: {times}, {long['errors']}"
