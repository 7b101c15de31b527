r"""Memory of training and of serving, plain and with intents, per backbone: the paper's Table 3 and beyond.

    llm4sbr experiment memory runs/memory --dataset ml-1m=PATH --dataset beauty=amazon:PATH \
        --backbone sr-gnn,tagnn,gce-gnn,s2-dhcn --protocol paper --llm item-text --encoder embedded
    python benchmarks/memory.py runs/memory --json benchmarks/results/memory.json

Training memory is taken from `llm4sbr experiment memory`, where each model has its own process. Serving is
measured here, for catalogues of the same sizes: each engine, in a fresh process, opens a model (with random
weights, which do not affect memory) and answers sessions in batches of 1 and 64. GPU memory of serving is the
difference of the driver's counts, so nothing else may use the GPU meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from engines import ENGINES, batches, open_engine
from latency import VARIANTS, Say, about
from latency_child import export
from machine import keep
from processes import Child, answer_for
from serving import artefacts, lengths

from llm4sbr.system import memory

BATCHES = (1, 64)
CALLS = 20
SERVED_BY = ("eager", "onnx", "onnx-int8", "eager-cuda", "onnx-cuda", "tensorrt-fp32")


def child(task: dict[str, Any]) -> None:
    """Open an engine, answer some batches, and report the memory used."""
    before = graphics_memory()
    answer = open_engine(folder=Path(task.pop("folder")), **task)
    draw = lengths(None, 0)[0]
    for size in BATCHES:
        for batch in batches(task["items"], size, draw, variant=task["variant"], count=CALLS):
            answer(batch)
    found = {"resident": memory.peak(), "anonymous": memory.anonymous()}
    answer_for(found | {"gpu": graphics_memory() - before}, lambda: {})


def graphics_memory() -> int:
    """Used memory of all GPUs in bytes, as reported by the driver; 0 without a GPU."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum(int(line) for line in told.split()) * 2**20


def training_rows(experiment: Path) -> Iterator[dict[str, Any]]:
    """A row per trained model of `llm4sbr experiment memory`; bytes.

    Raises:
        SystemExit: the folder holds no such experiment.
    """
    path = experiment / "experiment.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if found.get("experiment") != "memory":
        raise SystemExit(f"{experiment}: no finished memory experiment; llm4sbr experiment memory makes one")
    for cell in found["cells"]:
        printed = (cell["paper"] or {}).get("memory") or {}
        for row in cell["metrics"]["rows"] if cell["status"] == "done" else ():
            if row["kind"] != "baseline":
                one = {name: cell["axes"][name] for name in ("dataset", "backbone")}
                one |= {name: row.get(name) for name in ("name", "label", "peak_memory", "device_memory")}
                yield one | {"paper": printed.get(row["name"])}


def catalogues(experiment: Path) -> dict[str, int]:
    """Data set -> N, of an experiment's finished cells."""
    import polars as pl

    cells = json.loads((experiment / "experiment.json").read_text(encoding="utf-8"))["cells"]
    runs = {one["axes"]["dataset"]: experiment / one["run"] for one in cells if one["status"] == "done"}
    paths = {name: run / "prepare" / "items.parquet" for name, run in runs.items()}
    return {name: pl.scan_parquet(path).select(pl.len()).collect().item() for name, path in paths.items()}


def serving_rows(
    items: int, backbones: Sequence[str], base: Path, *, gpu: bool, engines: Sequence[str], say: Say
) -> Iterator[dict[str, Any]]:
    """A row per backbone, engine and variant, in bytes, or with the reason why it was not measured."""
    for backbone, name, variant in product(backbones, engines, VARIANTS):
        engine = ENGINES[name]
        row = {"items": items, "backbone": backbone, "engine": name, "variant": variant}
        if engine.gpu and not gpu:
            yield row | {"not_measured": "no GPU"}
            continue
        if engine.precision == "int8" and _own_score(backbone):
            yield row | {"not_measured": "scores by more than one product, has no 8-bit table"}
            continue
        folder = base / f"{items}-{backbone}-{variant}-{engine.precision or name}"
        if engine.precision and not (folder / "artefact.json").exists():
            say(f"{folder.name}: exporting")
            export(folder, items=items, backbone=backbone, variant=variant, precision=engine.precision)
        say(f"{items:,} items, {backbone}, {name}, {variant}")
        task = {"name": name, "folder": str(folder), "items": items, "variant": variant}
        with Child(__file__, task | {"threads": 1, "backbone": backbone}, threads=1) as measured:
            yield row | measured.ready


def _own_score(backbone: str) -> bool:
    from llm4sbr import registry

    return hasattr(registry.load("backbones", backbone), "score")


def results(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """All results, for the JSON file, which is written after every row."""
    found = {"command": command(options), **about(), "load": os.getloadavg()[0]}
    training = [row for folder in options.experiments for row in training_rows(folder)]
    known = {name: items for folder in options.experiments for name, items in catalogues(folder).items()}
    backbones = options.backbones or list(dict.fromkeys(row["backbone"] for row in training)) or ["sr-gnn"]
    sizes = sorted({*known.values(), *options.sizes})
    serving: list[dict[str, Any]] = []
    found |= {"catalogues": known, "training": training, "serving": serving}
    with artefacts(options.artefacts) as base:
        for items in sizes:
            gpu = bool(found["gpus"])
            for row in serving_rows(items, backbones, base, gpu=gpu, engines=options.engines, say=say):
                serving.append(row)
                keep(options.json, found)
    return found


def command(options: argparse.Namespace) -> str:
    """The command line, with folder names only."""
    words = ["python benchmarks/memory.py", *(folder.name for folder in options.experiments)]
    given = {"sizes": options.sizes, "backbones": options.backbones, "engines": options.engines}
    return " ".join(
        words + [f"--{name} {','.join(map(str, value))}" for name, value in given.items() if value]
    )


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    names = lambda text: text.split(",")  # noqa: E731
    numbers = lambda text: [int(one) for one in text.split(",")]  # noqa: E731
    parser.add_argument("experiments", nargs="*", type=Path, help="folders of llm4sbr experiment memory")
    parser.add_argument("--sizes", type=numbers, default=[], help="catalogues to serve besides theirs")
    parser.add_argument("--backbones", type=names, help="to serve; by default those that were trained")
    parser.add_argument("--engines", type=names, default=list(SERVED_BY), help=",".join(SERVED_BY))
    parser.add_argument("--artefacts", type=Path, help="keep the export folders here, and use them again")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if not (options.experiments or options.sizes or options.child):
        parser.error("nothing to measure: name a folder of llm4sbr experiment memory, or --sizes")
    return options


def main() -> None:
    """Measure, write the JSON, print the tables."""
    options = arguments()
    if options.child:
        child(options.child)
        return
    from memory_tables import memory_part

    found = results(options, lambda text: print(text, file=sys.stderr, flush=True))
    print(memory_part(found))


if __name__ == "__main__":
    main()
