"""What a catalogue of a given size takes: to export, to open, to answer.

    python benchmarks/capacity.py --items 10000000 --dim 32 --json benchmarks/results/capacity.json

A plain SR-GNN with random weights, from the real exporter. Every step has a process of its own, whose
CPU time, time and peak memory are told; files that are mapped count as memory once they are read. Answers are
of sessions of five clicks, one at a time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from machine import circumstances, keep
from processes import Child, answer_for

from llm4sbr.system import memory

LISTS = 50


def export(folder: str, items: int, dim: int, precision: str) -> dict[str, Any]:
    """Write the export folder."""
    import torch
    from synthetic import write_artefact

    from llm4sbr.fusion.model import Recipe, build

    torch.manual_seed(0)
    model = build(Recipe(items, dim, "sr-gnn")).eval()
    write_artefact(Path(folder), items=items, precision=precision, model=model)
    sizes = {one.name: one.stat().st_size for one in sorted(Path(folder).iterdir())}
    return {"bytes": sum(sizes.values()), "files": sizes}


def answer(folder: str, items: int) -> dict[str, Any]:
    """Open it, and answer."""
    from llm4sbr.serving.exported import ExportedRecommender

    began, spent = time.perf_counter(), time.process_time()
    opened = ExportedRecommender.load(Path(folder))
    found: dict[str, Any] = {
        "open_seconds": time.perf_counter() - began,
        "open_cpu": time.process_time() - spent,
        "open_anonymous": memory.anonymous(),
        "open_resident": memory.peak(),
    }
    draw, wall, cpu = random.Random(0), [], []
    for _ in range(LISTS):
        session = [f"i{draw.randint(1, items):07}" for _ in range(5)]
        began, spent = time.perf_counter(), time.process_time()
        assert len(opened.recommend(session).items) == 10
        wall.append(1000 * (time.perf_counter() - began))
        cpu.append(1000 * (time.process_time() - spent))
    return found | {"list_ms": median(wall), "list_cpu_ms": median(cpu), "first_list_ms": wall[0]}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {"export": export, "answer": answer}


def measured(step: str, **task: Any) -> dict[str, Any]:
    """One step, with its time and its peak memory."""
    began, spent = time.perf_counter(), time.process_time()
    found = STEPS[step](**task)
    seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - spent}
    return found | seconds | {"peak": memory.peak(), "anonymous": memory.anonymous()}


def main() -> None:
    """Measure, write the JSON, print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    found: dict[str, Any] = circumstances(("torch", "onnxruntime", "llm4sbr"))
    found |= {"items": options.items, "dim": options.dim, "precision": options.precision}
    with tempfile.TemporaryDirectory() as folder:
        task = {"folder": folder, "items": options.items}
        about = {"dim": options.dim, "precision": options.precision}
        for step, more in (("export", about), ("answer", {})):
            with Child(__file__, {}, threads=1) as process:
                found[step] = process.ask(step=step, **task, **more)
            keep(options.json, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if "--child" in sys.argv:
        answer_for({}, measured)
    else:
        main()
