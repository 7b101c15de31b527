"""Tables of `benchmarks/README.md` about latency, from the results of `latency.py`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from engines import ENGINES, FLOOR
from tables import machine, section, table, versions

AIMS = (
    (1_000_000, "onnx", "plain", "to_floor", 1.3, "fp32 takes at most 1.3 times the floor"),
    (1_000_000, "onnx-int8", "plain", "to_fp32", 1 / 1.8, "int8 is at least 1.8 times faster than fp32"),
    (100_000, "onnx", "intents", "to_plain", 1.05, "intents cost at most 5%"),
    (1_000_000, "onnx", "intents", "to_plain", 1.05, "intents cost at most 5%"),
)
"""Items, engine, variant, ratio, its bound, and in words: what batch 1 should reach."""


def latency_section() -> str:
    """What has been measured, or that nothing has been."""
    return section("latency", latency_part)


def latency_part(found: dict[str, Any]) -> str:
    """Circumstances, aims, a table per catalogue size, and what is missing."""
    parts = [
        f"`{found['command']}`",
        f"{machine(found)}, load {found['load_before']:.1f} before and "
        f"{found['load_after']:.1f} after (the measurement's own included); {versions(found)}. SR-GNN, "
        f"{found['model']}; sessions: {found['sessions']}.",
        aims(found["rows"]),
    ]
    for items, rows in groupby(found["rows"], key=lambda row: row["items"]):
        parts.append(f"**{items:,} items**\n\n{size_table(list(rows))}")
    parts.append(missing_table(found["not_measured"]))
    return "\n\n".join(part for part in parts if part)


def aims(rows: Sequence[dict[str, Any]]) -> str:
    """A line per aim and number of threads that was measured."""
    lines = []
    for items, engine, variant, name, bound, words in AIMS:
        wanted = {"items": items, "engine": engine, "variant": variant, "batch": 1}
        for row in rows:
            if all(row[key] == value for key, value in wanted.items()) and row[name] is not None:
                kept = "reached" if row[name] <= bound else "MISSED"
                lines.append(
                    f"- {items:,} items, {_threads(row['threads'])}: {words}: {kept}, {_told(name, row)}."
                )
    return "\n".join(lines)


def _told(name: str, row: dict[str, Any]) -> str:
    if name == "to_plain":
        return f"{row[name] - 1:+.1%}"
    return f"{1 / row[name]:.2f} times faster" if name == "to_fp32" else f"{row[name]:.2f} times"


def size_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per threads, batch and engine, with the plain variant's figures and what intents add."""
    heads = ["threads", "batch", "engine", "p50 / p90 / p99 ms", "calls", "times the floor", "intents"]
    heads += ["peak memory", "start s", "lists as the first engine's"]
    plain = [row for row in rows if row["variant"] == "plain"]
    fused = {_place(row): row for row in rows if row["variant"] == "intents"}
    lines = [_line(row, fused.get(_place(row))) for row in plain or rows]
    return table(heads, lines)


def _line(row: dict[str, Any], fused: dict[str, Any] | None) -> list[str]:
    times = " / ".join("-" if row[name] is None else f"{row[name]:.3g}" for name in ("p50", "p90", "p99"))
    cells = [str(row["threads"]), str(row["batch"]), ENGINES[row["engine"]].title, times, f"{row['calls']:,}"]
    cells.append("1" if row["engine"] == FLOOR else f"{row['to_floor']:.2f}")
    cells.append("" if not fused or fused["to_plain"] is None else f"{fused['to_plain'] - 1:+.1%}")
    if row["engine"] == FLOOR:
        return [*cells, "", "", ""]
    cells += [f"{max(row['peak'], row['load_peak']) / 2**20:,.0f} MB", f"{row['load_seconds']:.1f}"]
    return [*cells, f"{row['same_lists']:.0%}"]


def missing_table(rows: Sequence[dict[str, Any]]) -> str:
    """What was not measured, why, and the command that does."""
    reasons: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        key = (row["engine"], row["not_measured"], row["command"].replace(str(row["items"]), "N"))
        reasons.setdefault(key, []).append(row["items"])
    lines = [
        [
            ENGINES[engine].title,
            ", ".join(f"{size:,}" for size in sorted(set(sizes))),
            f"not measured: {reason}",
            f"`{command}`",
        ]
        for (engine, reason, command), sizes in reasons.items()
    ]
    return table(["engine", "items (N)", "", "command"], lines) if lines else ""


def _place(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["threads"], row["batch"], row["engine"]


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")
