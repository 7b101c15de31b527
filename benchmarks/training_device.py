"""Measures training on one device: samples/s and memory by catalogue size, precision and compilation.

    python benchmarks/training_device.py --device cuda --json gpu/training.json

The sessions are those of `training_scale.py`. Every combination has a process of its own, which may fail or
take too long without costing the others; the row then says so. The full loss is what is timed, at a million
items also the one over sampled items.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from machine import circumstances, keep
from training_scale import trained

SAMPLED_FROM = 100_000
"""Catalogues from this size on are also trained on sampled items."""


def combinations(sizes: list[int]) -> list[dict[str, Any]]:
    """What is measured, small catalogues first."""
    return [
        {"items": items, "loss": loss, "precision": precision, "compile": compiled}
        for items, precision, compiled in product(sizes, ("fp32", "bf16"), (False, True))
        for loss in ("full", "popularity")
        if loss == "full" or (items >= SAMPLED_FROM and not compiled)
    ]


def measured(task: dict[str, Any], limit: float) -> dict[str, Any]:
    """The task and its rates, or why there are none."""
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return task | {"failed": f"took longer than {limit:g} seconds"}
    if done.returncode:
        return task | {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return task | found


def alone(items: int, loss: str, batches: int, **changes: Any) -> dict[str, float]:
    """Rates and memory in this process."""
    found = trained(items, loss, batches, 0, **changes)
    if changes["device"].startswith("cuda"):
        found["device_memory"] = torch.cuda.max_memory_allocated()
    return found


def main() -> None:
    """Measure all combinations, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--items", default="3416,43097,1000000")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--limit", type=float, default=60, help="seconds for a combination")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(alone(**options.task)))
        return
    found = circumstances(["torch", "llm4sbr"]) | {"device": options.device, "rows": []}
    for combination in combinations([int(one) for one in options.items.split(",")]):
        task = combination | {"batches": options.batches, "device": options.device}
        row = measured(task, options.limit)
        found["rows"].append(row)
        keep(options.json, found)
        told = (
            row.get("failed") or f"{row['wall']:,.0f} samples/s, {row.get('device_memory', 0) / 1e9:.2f} GB"
        )
        print(*combination.values(), told, sep="  ", flush=True)


if __name__ == "__main__":
    main()
