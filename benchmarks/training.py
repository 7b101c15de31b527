"""Measures training on a run directory: samples/s, seconds per epoch, peak memory, with and without intents.

    python benchmarks/training.py RUN [--threads 1,2] [--backbones sr-gnn,...] [--batches N] [--json FILE]

The run must be prepared and localized. What is timed is `llm4sbr.training.train_model` itself, on a random
part of the training samples, and for SR-GNN `common_approach.py` on the same samples. The contestants take
turns in one process, round by round, and the table shows medians; memory is measured in a fresh process
each. An epoch is extrapolated from the samples measured unless those are all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common_approach import CommonData, common_model, train_step

from llm4sbr import memory, registry
from llm4sbr.config import TrainConfig
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.fusion.model import Recipe
from llm4sbr.intents import IntentStore
from llm4sbr.protocols import Samples
from llm4sbr.ranking import SampleIntents
from llm4sbr.training import Material, train_model

KINDS = ("plain", "intents", "common plain", "common intents")
COMMON_BATCHES = 6
"""Batches of the common approach per round; more would only make the measurement longer."""
SOURCE = "llm"


class Clock:
    """Samples per second between the first and the last report, by the wall clock and by the CPU's."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.samples = 0

    def __call__(self, samples: int, note: str) -> None:
        """One more batch is done; the first is warm-up."""
        if samples:
            self.samples += samples if self.marks else 0
            self.marks.append((time.perf_counter(), time.process_time()))

    def rates(self) -> dict[str, float]:
        """`wall` and `cpu`, samples/s."""
        first, last = self.marks[0], self.marks[-1]
        return {name: self.samples / (last[i] - first[i]) for i, name in enumerate(("wall", "cpu"))}


class Bench(NamedTuple):
    """What is measured."""

    prepared: Prepared
    store: IntentStore
    backbone: str
    batches: int
    seed: int

    @classmethod
    def open(cls, options: argparse.Namespace, backbone: str) -> Bench:
        """Of the run directory in the options."""
        folder = options.run / "localize" / SOURCE
        return cls(
            load(options.run / "prepare"), IntentStore.open(folder), backbone, options.batches, options.seed
        )

    def samples(self, batches: int) -> Samples:
        """A random part of the training samples, enough for so many batches of the default size."""
        every = self.prepared.samples["train"]
        random = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(every.key), generator=random)[: batches * TrainConfig().batch_size]
        return Samples(every.start[chosen], every.end[chosen], every.key[chosen])

    def recipe(self, intents: bool) -> Recipe:
        """The default model."""
        config = TrainConfig()
        recipe = Recipe(self.prepared.catalogue.size, config.dim, self.backbone)
        if not intents:
            return recipe
        names = tuple(self.store.perspectives)
        horizons = tuple(registry.create("perspectives", name).horizon for name in names)
        recipe = recipe._replace(perspectives=names, horizons=horizons)
        return recipe._replace(fuser=config.fuser, text_dim=self.store.dim)

    def measure(self, kind: str) -> Clock:
        """Train one contestant, from fresh weights."""
        clock = Clock()
        measure = self._common if kind.startswith("common") else self._fast
        measure(kind.endswith("intents"), clock)
        return clock

    def _fast(self, intents: bool, clock: Clock) -> None:
        prepared, samples = self.prepared, self.samples(self.batches)
        nothing = Samples(*(torch.zeros(0, dtype=torch.int64),) * 3)
        known = SampleIntents.of(self.store, samples) if intents else None
        catalogue = catalogue_hash(prepared.catalogue)
        material = Material(prepared.sessions, prepared.train, samples, nothing, "none", catalogue, known)
        config = TrainConfig(epochs=1, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            train_model(
                Path(folder),
                self.recipe(intents),
                material,
                config,
                seed=self.seed,
                report=clock,
                facts={},
            )

    def _common(self, intents: bool, clock: Clock) -> None:
        samples, config = self.samples(min(self.batches, COMMON_BATCHES) + 1), TrainConfig()
        known = self.store.gather(self.store.rows(samples.key)) if intents else None
        data = CommonData(self.prepared.sessions, samples, known)
        torch.manual_seed(self.seed)
        model = common_model(self.recipe(intents))
        optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, weight_decay=config.l2)
        for batch in data.batches(config.batch_size, self.seed):
            train_step(model, optimizer, batch, config.tau)
            clock(len(batch.target), "")


def timed(bench: Bench, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Rates of every contestant in every round; they take turns."""
    kinds = KINDS if bench.backbone == "sr-gnn" else KINDS[:2]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            found[kind].append(bench.measure(kind).rates())
    return found


def peak(bench: Bench, kind: str) -> int:
    """Bytes, the largest resident set of this process while it trains, memory-mapped intents included."""
    memory.reset_peak()
    bench.measure(kind)
    return memory.peak()


def child(options: argparse.Namespace) -> None:
    """Measure one thing in this process and print it as JSON."""
    torch.set_num_threads(options.threads[0])
    backbone, _, kind = options.child.partition("/")
    bench = Bench.open(options, backbone)
    print(json.dumps(peak(bench, kind) if kind else timed(bench, options.rounds)))


def in_child(options: argparse.Namespace, threads: int, what: str) -> Any:
    """The result of `child` in a fresh process."""
    command = [sys.executable, __file__, str(options.run), "--child", what, "--threads", str(threads)]
    for name in ("batches", "rounds", "seed"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def results(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    prepared = load(options.run / "prepare")
    total = len(prepared.samples["train"].key)
    rows = []
    for threads in options.threads:
        for backbone in options.backbones:
            rates = in_child(options, threads, backbone)
            for kind, rounds in rates.items():
                say(f"{backbone}, {kind}, {threads} threads")
                used = None if kind.startswith("common") else in_child(options, threads, f"{backbone}/{kind}")
                medians = {
                    clock: statistics.median(one[clock] for one in rounds) for clock in ("wall", "cpu")
                }
                row = {"backbone": backbone, "kind": kind, "threads": threads, "samples_per_second": medians}
                row |= {"seconds_per_epoch": total / medians["wall"], "peak_memory": used, "rounds": rounds}
                rows.append(row)
    return about(options, prepared, total) | {"rows": rows}


def about(options: argparse.Namespace, prepared: Prepared, total: int) -> dict[str, Any]:
    """Circumstances of the measurement."""
    size, samples = TrainConfig().batch_size, prepared.samples["train"]
    store = IntentStore.open(options.run / "localize" / SOURCE)
    return {
        "command": f"python benchmarks/training.py RUN --threads {','.join(map(str, options.threads))} "
        f"--backbones {','.join(options.backbones)} --batches {options.batches} --rounds {options.rounds}",
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "llm4sbr": registry.core_version(),
        },
        "seed": options.seed,
        "training_samples": total,
        "measured_samples": min(total, options.batches * size),
        "common_samples": min(total, (min(options.batches, COMMON_BATCHES)) * size),
        "epoch": "measured" if options.batches * size >= total else "extrapolated",
        "catalogue": prepared.catalogue.size,
        "average_prefix": round(float((samples.end - samples.start).float().mean()), 2),
        "perspectives": store.perspectives,
        "text_dim": store.dim,
        "rules": prepared.stats["rules"],
    }


def processor() -> str:
    """The CPU's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("run", type=Path, help="a run directory that is prepared and localized")
    parser.add_argument("--threads", type=lambda text: [*map(int, text.split(","))], default=[1, 2])
    parser.add_argument("--backbones", type=lambda text: text.split(","), help="all by default")
    parser.add_argument("--batches", type=int, default=100, help="per round and contestant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.backbones = options.backbones or [one.name for one in registry.components("backbones")]
    return options


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = arguments()
    if options.child:
        child(options)
        return
    from report import training_table

    found = results(options, lambda text: print(text, file=sys.stderr))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(training_table(found))


if __name__ == "__main__":
    main()
