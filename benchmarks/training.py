"""Measures training: samples/s, seconds per epoch, memory, with and without intents, for every backbone.

    python benchmarks/training.py ml-1m=runs/ml-1m beauty=runs/beauty --results benchmarks/results
    python benchmarks/training.py --items 3416,43097,300000,1000000 --results benchmarks/results

The second command measures made-up catalogues (`training_scale.py`); of the first, each run directory must be
prepared and localized. The timed function is `llm4sbr.training.trainer.train_model` on a random part of the
training samples; SR-GNN is compared with
`common_approach.py` on the same samples, in a separate process. All contestants run in every round, so that
other load on the machine affects all of them; ratios are medians of the rounds' ratios. The first round is
not counted: in it oneDNN prepares its kernels, and the first contestant would pay for all others. Memory is
measured in a fresh process per contestant, with the first number of threads. Epoch times are extrapolated,
with one exception: to measure how time grows with the number of samples, SR-GNN is trained on 25, 50 and 100%
of them, plain and with intents alternately, which also gives the cost of intents over whole epochs. Takes
about 25 minutes for two data sets of this size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import training_scale as scale
from common_approach import CommonData, common_model, train_step
from machine import keep
from training_clock import Throughput

from llm4sbr import registry
from llm4sbr.config import TrainConfig
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.evaluation.ranking import SampleIntents
from llm4sbr.fusion.model import Recipe
from llm4sbr.intents import IntentStore
from llm4sbr.protocols import Samples
from llm4sbr.training.material import Material
from llm4sbr.training.trainer import train_model

KINDS = ("plain", "intents")
COMMON = "common "
"""Prefix for the kinds of the common approach; SR-GNN only."""
COMMON_BATCHES = 6
"""Batches of the common approach per round; it is slow, and more would only take longer."""
PAPERS = ("sr-gnn", "tagnn", "gce-gnn", "s2-dhcn")
SHARES = (0.25, 0.5, 1.0)
"""Shares of the training samples, to see how time grows."""
SOURCE = "llm"


class Bench(NamedTuple):
    """Everything that one process measures with."""

    prepared: Prepared
    store: IntentStore
    seed: int

    @classmethod
    def open(cls, run: Path, seed: int) -> Bench:
        """Open a run directory."""
        return cls(load(run / "prepare"), IntentStore.open(run / "localize" / SOURCE), seed)

    def samples(self, batches: int) -> Samples:
        """A random part of the training samples, enough for this many batches of the default size."""
        every = self.prepared.samples["train"]
        random = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(every.key), generator=random)[: batches * TrainConfig().batch_size]
        return Samples(every.start[chosen], every.end[chosen], every.key[chosen])

    def recipe(self, backbone: str, intents: bool) -> Recipe:
        """The default model's recipe."""
        config = TrainConfig()
        recipe = Recipe(self.prepared.catalogue.size, config.dim, backbone)
        if not intents:
            return recipe
        names = tuple(self.store.perspectives)
        horizons = tuple(registry.create("perspectives", name).horizon for name in names)
        recipe = recipe._replace(perspectives=names, horizons=horizons)
        return recipe._replace(fuser=config.fuser, text_dim=self.store.dim)

    def measure(self, backbone: str, kind: str, batches: int) -> dict[str, float]:
        """Train one contestant from fresh weights."""
        clock = Throughput()
        measure = self._common if kind.startswith(COMMON) else self._fast
        measure(self.recipe(backbone, kind.endswith("intents")), self.samples(batches), clock)
        return clock.found()

    def _fast(self, recipe: Recipe, samples: Samples, clock: Throughput) -> None:
        prepared = self.prepared
        nothing = Samples(*(torch.zeros(0, dtype=torch.int64),) * 3)
        known = SampleIntents.of(self.store, prepared.sessions, samples) if recipe.fuser else None
        catalogue = catalogue_hash(prepared.catalogue)
        material = Material(prepared.sessions, prepared.train, samples, nothing, "none", catalogue, known)
        config = TrainConfig(epochs=1, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            train_model(Path(folder), recipe, material, config, seed=self.seed, report=clock, facts={})

    def _common(self, recipe: Recipe, samples: Samples, clock: Throughput) -> None:
        config = TrainConfig()
        known = self.store.gather(self.store.rows(samples.key)) if recipe.fuser else None
        every = self.prepared.samples["train"]
        longest = int((every.end - every.start).max())
        data = CommonData(self.prepared.sessions, samples, known, width=longest)
        torch.manual_seed(self.seed)
        model = common_model(recipe)
        optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, weight_decay=config.l2)
        for batch in data.batches(config.batch_size, self.seed):
            train_step(model, optimizer, batch, config.tau)
            clock(len(batch.target), "")


class Measurer:
    """A process that runs measurements on request.

    Args:
        run: the run directory.
        threads: number of PyTorch threads.
        seed: seed of samples and weights.
    """

    def __init__(self, run: Path, threads: int, seed: int) -> None:
        command = [sys.executable, __file__, str(run), "--child", "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [*command, "--seed", str(seed)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Measurer:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.process.communicate()

    def measure(self, backbone: str, kind: str, batches: int) -> dict[str, float]:
        """`Bench.measure` there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([backbone, kind, batches]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{backbone}, {kind}: the measuring process failed")
        found: dict[str, float] = json.loads(answer)
        return found


def child(options: argparse.Namespace) -> None:
    """Answer the requests on standard input."""
    torch.set_num_threads(options.threads[0])
    bench = Bench.open(Path(options.runs[0]), options.seed)
    for line in sys.stdin:
        print(json.dumps(bench.measure(*json.loads(line))), flush=True)


def timed(run: Path, threads: int, options: argparse.Namespace, say: Callable[[str], None]) -> list[Any]:
    """A row per contestant with its samples/s in every round; they take turns."""
    kinds = [(backbone, kind) for backbone in options.backbones for kind in KINDS]
    kinds += [("sr-gnn", COMMON + kind) for kind in KINDS if "sr-gnn" in options.backbones]
    rounds: dict[tuple[str, str], list[Any]] = {kind: [] for kind in kinds}
    with Measurer(run, threads, options.seed) as fast, Measurer(run, threads, options.seed) as common:
        for number in range(options.rounds + 1):
            say(f"{run}, {threads} threads, round {number} of {options.rounds}")
            for backbone, kind in kinds:
                worker, batches = fast, options.batches
                if kind.startswith(COMMON):
                    worker, batches = common, min(batches, COMMON_BATCHES)
                found = worker.measure(backbone, kind, batches + 1)
                if number:
                    rounds[backbone, kind].append({name: found[name] for name in ("wall", "cpu")})
    return [
        {"backbone": backbone, "kind": kind, "threads": threads, "rounds": rates}
        for (backbone, kind), rates in rounds.items()
    ]


def memory_rows(run: Path, options: argparse.Namespace, say: Callable[[str], None]) -> list[Any]:
    """Peak memory of the paper's backbones, each in a fresh process."""
    rows = []
    for backbone in (one for one in PAPERS if one in options.backbones):
        for kind in KINDS:
            say(f"{run}, memory of {backbone}, {kind}")
            with Measurer(run, options.threads[0], options.seed) as worker:
                found = worker.measure(backbone, kind, options.batches)
            peaks = {name: found[name] for name in ("resident", "anonymous")}
            rows.append({"backbone": backbone, "kind": kind} | peaks)
    return rows


def growth(run: Path, total: int, options: argparse.Namespace, say: Callable[[str], None]) -> list[Any]:
    """How long SR-GNN takes for parts of the training samples, plain and with intents in turns."""
    contestants = [(share, kind) for share in SHARES for kind in KINDS if "sr-gnn" in options.backbones]
    rows: list[dict[str, Any]] = [
        {"kind": kind, "share": share, "samples": 0.0, "rounds": []} for share, kind in contestants
    ]
    with Measurer(run, options.threads[0], options.seed) as worker:
        for number in range(options.rounds + 1):
            for row in rows if number else rows[: len(KINDS)]:  # for warm-up the smallest share is enough
                kind, share = row["kind"], row["share"]
                say(f"{run}, {kind}, {share:.0%} of an epoch, round {number} of {options.rounds}")
                found = worker.measure(
                    "sr-gnn", kind, max(2, round(share * total / TrainConfig().batch_size))
                )
                row["samples"] = found["samples"]
                if number:
                    seconds = {clock: found["samples"] / found[clock] for clock in ("wall", "cpu")}
                    row["rounds"].append(seconds)
    return rows


def results(run: Path, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All measurements of one run directory, for the JSON file."""
    bench = Bench.open(run, options.seed)
    found = about(bench, options)
    rows = [row for threads in options.threads for row in timed(run, threads, options, say)]
    found |= {"rows": rows, "memory": memory_rows(run, options, say)}
    return found | {"growth": growth(run, found["training_samples"], options, say)}


def about(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Circumstances of the measurement."""
    samples, size = bench.prepared.samples["train"], TrainConfig().batch_size
    total = len(samples.key)
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
        "catalogue": bench.prepared.catalogue.size,
        "average_prefix": round(float((samples.end - samples.start).float().mean()), 2),
        "longest_prefix": int((samples.end - samples.start).max()),
        "perspectives": bench.store.perspectives,
        "text_dim": bench.store.dim,
        "rules": bench.prepared.stats["rules"],
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
    parser.add_argument("runs", nargs="*", metavar="NAME=RUN", help="a data set's name and its run directory")
    parser.add_argument("--items", type=lambda text: [*map(int, text.split(","))], help="made-up catalogues")
    parser.add_argument("--threads", type=lambda text: [*map(int, text.split(","))], default=[1, 2])
    parser.add_argument("--backbones", type=lambda text: text.split(","), help="all by default")
    parser.add_argument("--batches", type=int, default=30, help="per round and contestant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="write training-NAME.json into this folder")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.backbones = options.backbones or [one.name for one in registry.components("backbones")]
    return options


def main() -> None:
    """Measure, write the JSON, print the tables."""
    options = arguments()
    if options.child:
        child(options)
        return
    from training_tables import scale_part, training_part

    if options.items:
        found = scale.results(options, lambda text: print(text, file=sys.stderr))
        if options.results:
            keep(options.results / "scale.json", found)
        print(scale_part(found))
    for given in options.runs:
        name, _, run = given.rpartition("=")
        name = name or Path(run).name
        found = results(Path(run), options, lambda text: print(text, file=sys.stderr))
        if options.results:
            options.results.mkdir(parents=True, exist_ok=True)
            (options.results / f"training-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(training_part(name, found))


if __name__ == "__main__":
    main()
