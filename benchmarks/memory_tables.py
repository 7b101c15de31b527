"""Tables of `benchmarks/README.md` about memory, from what `memory.py` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import ENGINES

RESULTS = Path(__file__).parent / "results"
NO_GPU = "not measured: no GPU"
ELSEWHERE = (
    "What needs a GPU is measured by the same commands on a machine that has one, after "
    "`pip install 'llm4sbr[onnx-gpu]' 'llm4sbr[tensorrt]'`."
)


def memory_section() -> str:
    """What has been measured, or that nothing has been."""
    path = RESULTS / "memory.json"
    if not path.exists():
        return "Not measured yet."
    return memory_part(json.loads(path.read_text(encoding="utf-8")))


def memory_part(found: dict[str, Any]) -> str:
    """Circumstances and both tables."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    gpus = "".join(f", {name}" for name in found["gpus"])
    sizes = ", ".join(f"{name} has {items:,} items" for name, items in found["catalogues"].items())
    parts = [
        f"`{found['command']}`",
        f"{found['cpu']}, {found['cores']} cores{gpus}; {versions}. {sizes}.".replace(" .", ""),
    ]
    if found["training"]:
        parts.append("**Training**\n\n" + training_table(found["training"]))
    parts.append("**Serving**\n\n" + serving_table(found["serving"]))
    return "\n\n".join([*parts, *([ELSEWHERE] if not found["gpus"] else [])])


def training_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per trained model, host and GPU, each beside its plain backbone's."""
    heads = ["data set", "model", "host peak", "/ plain", "GPU peak", "/ plain", "paper, GPU", "/ plain"]
    lines = []
    for row in rows:
        place = (row["dataset"], row["backbone"])
        plain = next(
            one for one in rows if (one["dataset"], one["backbone"], one["name"]) == (*place, "plain")
        )
        cells = [row["dataset"], row["label"]]
        for name in ("peak_memory", "device_memory", "paper"):
            cells += _pair(row[name], plain[name], NO_GPU if name == "device_memory" else "")
        lines.append(cells)
    return _table(heads, lines)


def serving_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per catalogue, backbone and engine, plain beside fused."""
    heads = ["items", "backbone", "engine", "plain", "with intents", "/ plain", "GPU, plain", "with intents"]
    lines = []
    for row in (one for one in rows if one["variant"] == "plain"):
        place = [row[name] for name in ("items", "backbone", "engine")]
        fused = next(
            one
            for one in rows
            if one is not row and [one[n] for n in ("items", "backbone", "engine")] == place
        )
        cells = [f"{row['items']:,}", row["backbone"], ENGINES[row["engine"]].title]
        if "not_measured" in row:
            lines.append([*cells, f"not measured: {row['not_measured']}", "", "", "", ""])
            continue
        cells += [_size(row["resident"]), *_pair(fused["resident"], row["resident"], "")]
        gpu = [_size(one["gpu"]) for one in (row, fused)] if ENGINES[row["engine"]].gpu else ["", ""]
        lines.append([*cells, *gpu])
    return _table(heads, lines)


def _pair(value: float | None, plain: float | None, missing: str) -> list[str]:
    """A size, and its ratio to the plain model's."""
    return [_size(value), f"{value / plain:.3f}"] if value and plain else [missing, ""]


def _size(value: float | None) -> str:
    return f"{(value or 0) / 1e6:,.0f} MB"  # 10^6 bytes, as the paper's M


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
