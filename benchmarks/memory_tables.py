"""Tables of `benchmarks/README.md` about memory, from the results of `memory.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines import ENGINES
from tables import machine, section, table, versions

NO_GPU = "not measured: no GPU"
PLACE = ("items", "backbone", "engine")
"""Fields that are equal for a plain model and the fused model it is compared with."""

ELSEWHERE = (
    "What needs a GPU is measured by the same commands on a machine that has one, after "
    "`pip install 'llm4sbr[onnx-gpu]' 'llm4sbr[tensorrt]'`."
)


def memory_section() -> str:
    """What has been measured, or that nothing has been."""
    return section("memory", memory_part)


def memory_part(found: dict[str, Any]) -> str:
    """Circumstances and both tables."""
    sizes = ", ".join(f"{name} has {items:,} items" for name, items in found["catalogues"].items())
    parts = [
        f"`{found['command']}`",
        f"{machine(found)}; {versions(found)}. {sizes}.".replace(" .", ""),
    ]
    if found["training"]:
        parts.append("**Training**\n\n" + training_table(found["training"]))
    parts.append("**Serving**\n\n" + serving_table(found["serving"]))
    return "\n\n".join([*parts, *([ELSEWHERE] if not found["gpus"] else [])])


def training_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per trained model, on host and GPU, with the ratio to its plain backbone."""
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
    return table(heads, lines)


def serving_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per catalogue, backbone and engine, plain next to fused."""
    heads = ["items", "backbone", "engine", "plain", "with intents", "/ plain", "GPU, plain", "with intents"]
    lines = []
    for row in (one for one in rows if one["variant"] == "plain"):
        place = [row[name] for name in PLACE]
        fused = next((one for one in rows if one is not row and [one[n] for n in PLACE] == place), None)
        if fused is None:  # the measurement was cut short
            continue
        cells = [f"{row['items']:,}", row["backbone"], ENGINES[row["engine"]].title]
        if "not_measured" in row:
            lines.append([*cells, f"not measured: {row['not_measured']}", "", "", "", ""])
            continue
        cells += [_size(row["resident"]), *_pair(fused["resident"], row["resident"], "")]
        gpu = [_size(one["gpu"]) for one in (row, fused)] if ENGINES[row["engine"]].gpu else ["", ""]
        lines.append([*cells, *gpu])
    return table(heads, lines)


def _pair(value: float | None, plain: float | None, missing: str) -> list[str]:
    """A size, and its ratio to the plain model's."""
    return [_size(value), f"{value / plain:.3f}"] if value and plain else [missing, ""]


def _size(value: float | None) -> str:
    return f"{(value or 0) / 1e6:,.0f} MB"  # 10^6 bytes, as the paper's M
