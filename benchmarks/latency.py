"""Measures the time per list by catalogue size, batch size, threads and engine.

    python benchmarks/latency.py --minutes 5 --json benchmarks/results/latency.json

The times are compared with reading the item table once, the lower bound for an exact engine. There is one
process per engine, variant, size and number of threads, with a model of random weights from the real
exporter; session lengths have a geometric distribution. All engines of a size are open at the same time and
run in every round, so that other load on the machine affects all of them; ratios are medians of the rounds'
ratios (of CPU time with one thread, wall time with more). Small sizes get `--samples` calls, larger ones as
many as fit into the time; the table says how many. Cases that do not fit into memory, or need a missing GPU,
are listed as such. Measuring takes `--minutes`; exporting, opening and compiling take about seven more for
the default sizes on two idle cores.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from engines import ENGINES, FLOOR, WIDTH
from latency_child import __file__ as MEASURES
from latency_child import export
from machine import circumstances, keep
from processes import Child
from serving import SIZES, artefacts, lengths

SIZES_TOO = {**SIZES, "10m": 10_000_000}
VARIANTS = ("plain", "intents")
ROUNDS, LEAST_ROUNDS = 10, 3
INSIDE = 2**31
"""Approximate size in bytes above which weights are external to the graph."""
SHORTEST = 0.05
"""Minimum seconds per turn, even if the time is up."""
ENOUGH = 200
"""Minimum number of calls for a 99th percentile."""
EXPORT_COPIES, EXPORT_COPIES_BESIDE = 7, 3
"""Memory of an export, in multiples of the float32 item table; less if weights are external."""
PACKAGES = ("llm4sbr", "torch", "onnxruntime", "numpy")

Say = Callable[[str], None]


class Contestant(NamedTuple):
    """A combination that is measured in its own process."""

    items: int
    threads: int
    engine: str
    variant: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.items:,} items, threads {self.threads}, {self.engine}, {self.variant}"

    def folder(self, base: Path) -> Path:
        """Folder of the artefact that it loads."""
        return base / f"{self.items}-{self.variant}-{ENGINES[self.engine].precision or self.engine}"

    def bytes(self) -> int:
        """Maximum memory needed."""
        return ENGINES[self.engine].copies * table_bytes(self.items)


class Turn(NamedTuple):
    """One contestant's times in one round, milliseconds per call."""

    wall: list[float]
    cpu: list[float]


def table_bytes(items: int) -> int:
    """Size of the float32 item table."""
    return items * WIDTH * 4


def spare_memory() -> int:
    """Available memory in bytes (on Linux; elsewhere the machine's total)."""
    path = Path("/proc/meminfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def group(
    contestants: Sequence[Contestant], base: Path, *, seconds: float, options: argparse.Namespace, say: Say
) -> tuple[list[dict[str, Any]], float]:
    """Rows of contestants with the same items and threads, open together, and the seconds they measured."""
    with ExitStack() as stack:
        children = {}
        for one in contestants:
            say(f"{one.title}: opening")
            task = {"name": one.engine, "folder": str(one.folder(base)), "items": one.items}
            task |= {"variant": one.variant, "threads": one.threads}
            children[one] = stack.enter_context(Child(MEASURES, task, threads=one.threads))
        rows: list[dict[str, Any]] = []
        total = 0.0
        for number, batch in enumerate(options.batches):
            share = max(seconds - total, 0) / (len(options.batches) - number)
            turns, told, spent = _turns(children, batch, seconds=share, samples=options.samples)
            total += spent
            say(f"{contestants[0].items:,} items, batch {batch}: {len(turns[contestants[0]])} rounds")
            rows += [
                row(one, batch, turns) | _memory(children[one], told[one]) | _same(one, told)
                for one in contestants
            ]
    return rows, total


def _turns(
    children: dict[Contestant, Child], batch: int, *, seconds: float, samples: int
) -> tuple[dict[Contestant, list[Turn]], dict[Contestant, dict[str, Any]], float]:
    """Every contestant's times in every round and its last answer, and the duration of all rounds."""
    turns: dict[Contestant, list[Turn]] = defaultdict(list)
    told = {one: child.ask(batch=batch, calls=1, seconds=0) for one, child in children.items()}  # warm-up
    began = time.monotonic()
    order = list(children)
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.monotonic() > began + seconds:
            break
        slot = max(seconds / ROUNDS / len(order), SHORTEST)
        for one in order:
            found = children[one].ask(batch=batch, calls=math.ceil(samples / ROUNDS), seconds=slot)
            turns[one].append(Turn(found["wall"], found["cpu"]))
            told[one] = found
        order = order[1:] + order[:1]
    return turns, told, time.monotonic() - began


def row(one: Contestant, batch: int, turns: dict[Contestant, list[Turn]]) -> dict[str, Any]:
    """Percentiles in milliseconds, and ratios to the floor, to ONNX in fp32, and to the plain variant."""
    wall = sorted(value for turn in turns[one] for value in turn.wall)
    found = one._asdict() | {"batch": batch, "calls": len(wall)}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        known = name != "p99" or len(wall) >= ENOUGH
        found[name] = round(wall[math.ceil(share * len(wall)) - 1], 4) if known else None
    found["cpu_p50"] = round(median(value for turn in turns[one] for value in turn.cpu), 4)
    others = {
        "to_floor": one._replace(engine=FLOOR, variant="plain"),
        "to_fp32": one._replace(engine="onnx"),
        "to_plain": one._replace(variant="plain"),
    }
    for name, other in others.items():
        found[name] = (
            ratio(turns[one], turns[other], one.threads) if other in turns and other != one else None
        )
    return found


def ratio(one: Sequence[Turn], other: Sequence[Turn], threads: int) -> float:
    """Ratio of the times of two contestants: the median over the rounds."""
    clock = 1 if threads == 1 else 0
    pairs = zip(one, other, strict=True)
    return round(median(median(a[clock]) / median(b[clock]) for a, b in pairs), 4)


def _memory(child: Child, told: dict[str, Any]) -> dict[str, Any]:
    """Peak memory in bytes while opening and while answering."""
    ready = child.ready
    seconds = round(ready["load_seconds"], 2)
    return {"load_seconds": seconds, "load_peak": ready["load_peak"], "peak": told["peak"]}


def _same(one: Contestant, told: dict[Contestant, dict[str, Any]]) -> dict[str, Any]:
    """Share of a batch's lists with the same items as those of the first real engine."""
    others = [other for other in told if other.engine != FLOOR and other.variant == one.variant]
    if one.engine == FLOOR:
        return {"same_lists": None}
    pairs = list(zip(told[one]["lists"], told[others[0]]["lists"], strict=True))
    return {"same_lists": round(sum(set(a) == set(b) for a, b in pairs) / len(pairs), 4)}


def plan(options: argparse.Namespace, *, gpu: bool) -> tuple[list[list[Contestant]], list[dict[str, Any]]]:
    """Groups that fit into memory, smallest first, and rows for what cannot be measured, with the reason."""
    groups: list[list[Contestant]] = []
    left: list[dict[str, Any]] = []
    for items, threads in product(sorted(options.sizes), options.threads):
        fitting: list[Contestant] = []
        for engine, variant in product(options.engines, options.variants):
            one = Contestant(items, threads, engine, variant)
            reason = _reason(one, gpu)
            if reason:
                left.append(one._asdict() | {"not_measured": reason, "command": command_for(one)})
            elif not (ENGINES[engine].gpu and threads != options.threads[0]):  # there, threads do nothing
                fitting.append(one)
        groups += _packed(fitting, Contestant(items, threads, FLOOR, "plain"))
    return groups, left


def _reason(one: Contestant, gpu: bool) -> str:
    """Why a contestant cannot be measured, "" if it can."""
    if ENGINES[one.engine].gpu and not gpu:
        return "no GPU"
    exported, table = ENGINES[one.engine].precision is not None, table_bytes(one.items)
    copies = EXPORT_COPIES if table < INSIDE else EXPORT_COPIES_BESIDE
    needed = max(one.bytes(), copies * table * exported) + table
    if needed > spare_memory():
        return f"needs {needed / 2**30:.0f} GB of memory, {spare_memory() / 2**30:.0f} GB are free"
    return ""


def _packed(fitting: Sequence[Contestant], floor: Contestant) -> list[list[Contestant]]:
    """Groups of contestants that fit into memory together, each with the floor first."""
    packed: list[list[Contestant]] = []
    for one in fitting:
        if not packed or sum(other.bytes() for other in packed[-1]) + one.bytes() > 0.8 * spare_memory():
            packed.append([floor])
        packed[-1].append(one)
    return packed


def command_for(one: Contestant) -> str:
    """The command that measures it on another machine."""
    packages = ENGINES[one.engine].packages
    install = f"pip install '{packages}' && " if packages else ""
    return f"{install}python benchmarks/latency.py --sizes {one.items} --engines {one.engine} --minutes 5"


def export_missing(contestants: Sequence[Contestant], base: Path, say: Say) -> None:
    """Write missing artefacts, each in its own process."""
    for one in contestants:
        precision, folder = ENGINES[one.engine].precision, one.folder(base)
        if precision and not (folder / "artefact.json").exists():
            say(f"{one.items:,} items, {one.variant}, {precision}: exporting")
            export(folder, items=one.items, variant=one.variant, precision=precision)


def results(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """All results, for the JSON file, which is written after every group."""
    found = {"command": command(options), **about(), "load_before": os.getloadavg()[0]}
    groups, left = plan(options, gpu=bool(found["gpus"]))
    rows: list[dict[str, Any]] = []
    found |= {"load_after": found["load_before"], "rows": rows, "not_measured": left}
    with artefacts(options.artefacts) as base:
        export_missing([one for each in groups for one in each], base, say)
        seconds = 60 * options.minutes
        for number, each in enumerate(groups):
            share = seconds / (len(groups) - number)
            made, spent = group(each, base, seconds=share, options=options, say=say)
            rows, seconds = rows + made, max(seconds - spent, 0)
            rows = [one for n, one in enumerate(rows) if one["engine"] != FLOOR or one not in rows[:n]]
            found |= {"load_after": os.getloadavg()[0], "rows": rows}
            keep(options.json, found)
    return found


def command(options: argparse.Namespace) -> str:
    """The command line with all options."""
    given = {"sizes": options.sizes, "batches": options.batches, "threads": options.threads}
    given |= {"engines": options.engines, "variants": options.variants, "minutes": [f"{options.minutes:g}"]}
    words = [f"--{name} {','.join(map(str, value))}" for name, value in given.items()]
    return " ".join(["python benchmarks/latency.py", *words])


def about() -> dict[str, Any]:
    """Machine, packages, models and sessions."""
    model = f"D = {WIDTH}, fuser gated, two perspectives, random weights, top 20, seen items out"
    return circumstances(PACKAGES) | {"model": model, "sessions": lengths(None, 0)[1]}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    sizes = lambda text: [SIZES_TOO.get(name) or int(name) for name in text.split(",")]  # noqa: E731
    numbers = lambda text: [int(one) for one in text.split(",")]  # noqa: E731
    names = lambda text: text.split(",")  # noqa: E731
    every = [name for name in ENGINES if name != FLOOR]
    parser.add_argument("--sizes", type=sizes, default="10k,100k,1m", help="10k,100k,1m,10m or numbers")
    parser.add_argument("--batches", type=numbers, default="1,8,64")
    parser.add_argument("--threads", type=numbers, default="1,2")
    parser.add_argument("--engines", type=names, default=every, help=",".join(every))
    parser.add_argument("--variants", type=names, default=list(VARIANTS), help=",".join(VARIANTS))
    parser.add_argument(
        "--minutes", type=float, default=5, help="for measuring; exports, opening, compiling on top"
    )
    parser.add_argument("--samples", type=int, default=1000, help="calls per engine, batch and size")
    parser.add_argument("--artefacts", type=Path, help="keep the export folders here, and use them again")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(given)
    unknown = set(options.engines) - set(every) | set(options.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    """Measure, write the JSON, print the tables."""
    options = arguments()
    from latency_tables import latency_part

    found = results(options, lambda text: print(text, file=sys.stderr, flush=True))
    print(latency_part(found))


if __name__ == "__main__":
    main()
