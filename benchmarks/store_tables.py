"""Tables of `benchmarks/README.md` about the intent store, from the results of `store.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from store_formats import FORMATS

RESULTS = Path(__file__).parent / "results"
OURS = "store"


def store_section() -> str:
    """What has been measured, or that nothing has been."""
    path = RESULTS / "store.json"
    return store_part(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else "Not measured yet."


def store_part(found: dict[str, Any]) -> str:
    """Circumstances and both tables."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return "\n\n".join(
        [
            f"`{found['command']}`",
            f"{found['cpu']}, {found['cores']} cores, load {found['load']:.1f} at the start; {versions}.",
            f"{found['rows']:,} vectors of {found['dim']} numbers; ratios say how many times as much as the "
            "intent store.",
            formats_table(found["formats"]),
            scale_table(found["scale"]),
        ]
    )


def formats_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per share of distinct vectors and format, with ratios to the intent store."""
    heads = ["distinct", "format", "size", "ratio", "load", "ratio", "gather 100", "ratio", "memory"]
    lines = []
    for row in rows:
        ours = next(one for one in rows if one["format"] == OURS and one["share"] == row["share"])
        cells = [f"{row['share']:.0%}", FORMATS[row["format"]].title]
        cells += [_megabytes(row["bytes"]), _ratio(row["bytes"], ours["bytes"])]
        for what in ("load", "gather"):
            cells += [_milliseconds(row[what]), _ratio(row[what], ours[what])]
        lines.append([*cells, _megabytes(row["memory"])])
    return _table(heads, lines)


def scale_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per size of store."""
    heads = ["rows", "numbers each", "size", "written at", "memory while writing", "open"]
    heads += ["gather 100 rows", "99th percentile", "100 keys"]
    lines = [
        [
            f"{row['rows']:,}",
            str(row["dim"]),
            _megabytes(row["bytes"]),
            f"{row['rows'] / row['write']:,.0f} rows/s",
            _megabytes(row["memory"]),
            *(_milliseconds(row[what]) for what in ("open", "gather", "gather_p99", "by_key")),
        ]
        for row in rows
    ]
    return _table(heads, lines)


def _ratio(value: float, ours: float) -> str:
    ratio = value / ours
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.1f} MB" if value < 1e8 else f"{value / 1e6:,.0f} MB"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.3f} ms" if seconds < 0.1 else f"{1e3 * seconds:,.0f} ms"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
