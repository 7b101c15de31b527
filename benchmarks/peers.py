r"""Compares training and recommending with RecBole's models of the same name, side by side.

    python -m venv peer
    peer/bin/pip install recbole==1.2.1 'numpy<2' 'pandas<2.3' 'scipy<1.14' 'setuptools<80'
    python benchmarks/peers.py runs/ml-1m --python peer/bin/python --json benchmarks/results/peers.json

RUN must be prepared and localized. RecBole (recbole.io) has its own environment, because it needs older
packages; it should have the same torch. A random part of the training samples is written in its format for
pre-split samples. Both train with the same hidden size, batch size, layers and heads, full softmax, in
float32, on the last 50 clicks of a session. The two alternate in every round; ratios are medians of the
rounds' ratios, of CPU time with one thread, wall time with more. A list is one session's K = 20 best of all
items: RecBole's by its `full_sort_predict` in PyTorch, ours by the exported model in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import circumstances, keep
from peers_tables import peers_part
from processes import Child
from synthetic import LONGEST, WIDTH
from training import Bench, Measurer

from llm4sbr.config import TrainConfig

HERE = Path(__file__).parent
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sr-gnn": ("SRGNN", {}),
    "gc-san": ("GCSAN", {"n_layers": 1, "n_heads": 1}),
    "gru4rec": ("GRU4Rec", {"num_layers": 1}),
    "narm": ("NARM", {"n_layers": 1}),
    "stamp": ("STAMP", {}),
    "sasrec": ("SASRec", {"n_layers": 2, "n_heads": 1}),
}
"""Our backbone -> RecBole's model, and the options that give it our layers."""
LISTS = 200


def write_samples(folder: Path, bench: Bench, batches: int) -> None:
    """Write the data set `peer`: `Bench.samples(batches)` to train on, and the whole catalogue."""
    samples, clicks = bench.samples(batches), bench.prepared.sessions.items
    every = range(1, bench.prepared.catalogue.size + 1)
    blocks = [[*every[i : i + LONGEST]] for i in range(0, len(every), LONGEST)]
    rows = {
        "train": [
            (clicks[max(start, end - LONGEST) : end].tolist(), int(clicks[end]))
            for start, end in zip(samples.start.tolist(), samples.end.tolist(), strict=True)
        ],
        "valid": [(block, block[0]) for block in blocks],
        "test": [(block, block[0]) for block in blocks],
    }
    (folder / "peer").mkdir()
    for part, those in rows.items():
        lines = ["session_id:token\titem_id_list:token_seq\titem_id:token"]
        lines += [
            f"{part}{n}\t{' '.join(map(str, items))}\t{target}" for n, (items, target) in enumerate(those)
        ]
        (folder / "peer" / f"peer.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(options: argparse.Namespace, threads: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row per model with its results in every round."""
    bench, batches = Bench.open(options.run, options.seed), options.batches + 1
    size = TrainConfig().batch_size
    if len(bench.samples(batches).key) < batches * size:
        raise SystemExit(f"{options.run}: has fewer than {batches * size} training samples; set --batches")
    found: dict[str, dict[str, Any]] = {
        name: {"backbone": name, "peer": PEERS[name][0], "threads": threads, "rounds": []}
        for name in options.backbones
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_samples(folder, bench, batches)
        task = {
            "folder": scratch,
            "width": WIDTH,
            "longest": LONGEST,
            "threads": threads,
            "seed": options.seed,
        }
        task |= {"batch": size}
        script = str(HERE / "peers_recbole.py")
        lists = {name: _artefact(folder / name, name, bench.prepared.catalogue.size) for name in found}
        with (
            Child(script, task, threads=threads, python=options.python) as peer,
            Measurer(options.run, threads, options.seed) as ours,
        ):
            for number in range(options.rounds):
                say(f"{threads} threads, round {number + 1} of {options.rounds}")
                for name, row in found.items():
                    model, settings = PEERS[name]
                    told = {kind: ours.measure(name, kind, batches) for kind in ("plain", "intents")}
                    one = {kind: {clock: told[kind][clock] for clock in ("wall", "cpu")} for kind in told}
                    one["peer"] = peer.ask(model=model, options=settings, batches=batches)
                    one["list"] = _list(lists[name], threads)
                    row["rounds"].append(one)
        for row in found.values():
            row["versions"] = peer.ready["versions"]
    return [*found.values()]


def _artefact(folder: Path, backbone: str, items: int) -> dict[str, Any]:
    options = {"items": items, "variant": "plain", "backbone": backbone}
    script = str(HERE / "latency_child.py")
    with Child(script, {"export": str(folder)} | options, threads=1):
        pass
    return options | {"folder": str(folder)}


def _list(task: dict[str, Any], threads: int) -> dict[str, float]:
    script = str(HERE / "latency_child.py")
    with Child(script, {"name": "onnx", "threads": threads} | task, threads=threads) as engine:
        found = engine.ask(batch=1, calls=LISTS, seconds=20.0)
    return {clock: sorted(found[clock])[len(found[clock]) // 2] for clock in ("wall", "cpu")}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    names = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("run", type=Path, help="a run directory that is prepared and localized")
    parser.add_argument("--python", required=True, help="the Python that has RecBole")
    parser.add_argument("--backbones", type=names, default=[*PEERS])
    parser.add_argument("--threads", type=lambda text: [*map(int, text.split(","))], default=[1, 2])
    parser.add_argument("--batches", type=int, default=20, help="per round and contestant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args(given)


def main() -> None:
    """Measure, write the JSON, print the table."""
    options = arguments()
    samples = Bench.open(options.run, options.seed).prepared
    found: dict[str, Any] = circumstances(("torch", "onnxruntime", "llm4sbr"))
    threads, backbones = ",".join(map(str, options.threads)), ",".join(options.backbones)
    found |= {
        "command": f"python benchmarks/peers.py RUN --python PYTHON --backbones {backbones} "
        f"--threads {threads} --batches {options.batches} --rounds {options.rounds}",
        "load": os.getloadavg()[0],
        "catalogue": samples.catalogue.size,
        "rules": samples.stats["rules"],
        "measured_samples": options.batches * TrainConfig().batch_size,
        "rows": [],
    }
    for number in options.threads:
        found["rows"] += rows(options, number, lambda text: print(text, file=sys.stderr, flush=True))
        keep(options.json, found)
    print(peers_part(found))


if __name__ == "__main__":
    main()
