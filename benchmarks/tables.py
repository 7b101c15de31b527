"""Helpers for the tables of `benchmarks/README.md`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def section(name: str, part: Callable[[dict[str, Any]], str]) -> str:
    """`part` applied to `results/NAME.json` and `NAME-*.json`, or a note that there is no such file yet."""
    paths = sorted(RESULTS.glob(f"{name}.json")) + sorted(RESULTS.glob(f"{name}-*.json"))
    return "\n\n".join(part(json.loads(path.read_text("utf-8"))) for path in paths) or "Not measured yet."


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Cells in Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine(found: dict[str, Any]) -> str:
    """Processor, cores and GPUs."""
    gpus = "".join(f", {name}" for name in found.get("gpus", ()))
    return f"{found['cpu']}, {found['cores']} cores{gpus}"


def versions(found: dict[str, Any]) -> str:
    """Packages and their versions."""
    return ", ".join(f"{name} {number}" for name, number in found["versions"].items())
