"""Size, load time and batch-gather time of the intent store, compared with other file formats.

    python benchmarks/store.py --results benchmarks/results

Two parts. `formats`: the same vectors in every format of `store_formats.py`, with 100% or 10% of them
distinct (LLMs repeat themselves); a fresh process measures the time to the first 100 random rows (load) and
to further ones (gather). `scale`: intent stores of up to ten million rows, written in blocks, then opened to
gather 100 random rows and 100 random keys. The files are in the system's cache, since they were just written;
every gather takes other rows. Needs up to 2.5 GB in a temporary folder and about 6 minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from processes import Child, answer_for
from store_formats import FORMATS, size
from torch import Tensor
from training import processor

from llm4sbr.intents import IntentStore, IntentWriter
from llm4sbr.system import memory

BATCH = 100
"""Rows gathered at once."""
CALLS = 300
"""Number of gathers to time; fewer if they are slow."""
PATIENCE = 3.0
"""Maximum seconds per measurement."""
BLOCK = 2**15
PACKAGES = ("llm4sbr", "torch", "numpy", "polars", "safetensors")


def vectors(rows: int, dim: int, *, share: float, seed: int) -> Tensor:
    """Unit vectors float32 (rows, dim), `share` of them distinct."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(max(1, round(rows * share)), dim, generator=generator)
    kinds /= kinds.norm(dim=1, keepdim=True)
    return kinds if share == 1 else kinds[torch.randint(0, len(kinds), (rows,), generator=generator)]


def keys(start: int, end: int, total: int, *, seed: int = 0) -> Tensor:
    """The keys of rows `start` to `end` of `total`: int64, ascending, spread over all of int64."""
    step = 2**64 // (total + 1)
    jitter = torch.randint(0, step, (end - start,), generator=torch.Generator().manual_seed(seed + start))
    return torch.arange(start, end) * step - 2**63 + jitter


def child(task: dict[str, Any]) -> None:
    """Run one task in this process and report its time and memory."""
    tasks: dict[str, Callable[..., dict[str, Any]]]
    tasks = {"format": measure_format, "write": write_large, "read": measure_large}
    answer_for(tasks[task.pop("kind")](**task), dict)


def measure_format(name: str, folder: str, rows: int) -> dict[str, Any]:
    """Load a file and gather from it; returns seconds, and bytes of memory without mapped files."""
    generator = torch.Generator().manual_seed(1)
    before = memory.anonymous()
    started = time.perf_counter()
    gather = FORMATS[name].open(Path(folder))
    gather(torch.randint(0, rows, (BATCH,), generator=generator))
    load = time.perf_counter() - started
    times = timed(lambda: gather(torch.randint(0, rows, (BATCH,), generator=generator)))
    return {"load": load, "gather": median(times), "memory": memory.anonymous() - before}


def write_large(folder: str, rows: int, dim: int) -> dict[str, Any]:
    """Write a store of distinct vectors in blocks; returns seconds, bytes, and the growth of this process."""
    writer = IntentWriter(Path(folder), ["long"], about={"catalogue": ""})
    before, most, spent = memory.anonymous(), 0, 0.0
    for start in range(0, rows, BLOCK):
        end = min(rows, start + BLOCK)
        block, none = vectors(end - start, dim, share=1, seed=start), torch.zeros(end - start, 1, 0)
        own = keys(start, end, rows)
        started = time.perf_counter()
        writer.add(own, block.unsqueeze(1), none, none)
        spent += time.perf_counter() - started
        most = max(most, memory.anonymous() - before)
    started = time.perf_counter()
    writer.close()
    spent += time.perf_counter() - started
    return {"write": spent, "memory": most, "bytes": size(Path(folder))}


def measure_large(folder: str, rows: int, dim: int) -> dict[str, Any]:
    """Open a store, gather by row and by key; seconds."""
    IntentStore.open(Path(folder))  # the first time in a process pays for imports
    opened = median(timed(lambda: IntentStore.open(Path(folder))))
    store, generator = IntentStore.open(Path(folder)), torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randint(0, rows, (BATCH,), generator=generator)

    everywhere = store.keys.clone()
    assert torch.equal(store.rows(everywhere[-5:]), torch.arange(rows - 5, rows))
    asked = iter([everywhere[draw()] for _ in range(CALLS)])
    by_row = sorted(timed(lambda: store.gather(draw())))
    by_key = timed(lambda: store.gather(store.rows(next(asked))))
    return {
        "open": opened,
        "gather": median(by_row),
        "gather_p99": by_row[int(0.99 * len(by_row))],
        "by_key": median(by_key),
    }


def timed(call: Callable[[], object]) -> list[float]:
    """Seconds of each of several calls."""
    found: list[float] = []
    while len(found) < CALLS and sum(found) < PATIENCE:
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found


def format_rows(options: argparse.Namespace, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A row per share of distinct vectors and format."""
    for share in options.shares:
        data = vectors(options.rows, options.dim, share=share, seed=0)
        for name, kind in FORMATS.items():
            say(f"{kind.title}: {options.rows:,} vectors, {share:.0%} distinct")
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                started = time.perf_counter()
                kind.write(Path(folder), keys(0, options.rows, options.rows), data)
                row = {"share": share, "format": name, "write": time.perf_counter() - started}
                row["bytes"] = size(Path(folder))
                task = {"kind": "format", "name": name, "folder": folder, "rows": options.rows}
                rounds = [_run(task) for _ in range(options.rounds)]
                yield row | {what: median(one[what] for one in rounds) for what in rounds[0]}


def scale_rows(options: argparse.Namespace, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A row per size of store."""
    for rows, dim in options.scale:
        say(f"a store of {rows:,} rows of {dim}")
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            task = {"folder": folder, "rows": rows, "dim": dim}
            written = _run({"kind": "write"} | task)
            rounds = [_run({"kind": "read"} | task) for _ in range(options.rounds)]
            read = {what: median(one[what] for one in rounds) for what in rounds[0]}
            yield {"rows": rows, "dim": dim} | written | read


def _run(task: dict[str, Any]) -> dict[str, Any]:
    with Child(__file__, task, threads=1) as one:
        return one.ready


def results(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All results, for the JSON file."""
    scale = ",".join(f"{rows}x{dim}" for rows, dim in options.scale)
    shares = ",".join(f"{share:g}" for share in options.shares)
    found = {
        "command": f"python benchmarks/store.py --rows {options.rows} --dim {options.dim} --shares {shares} "
        f"--scale {scale} --rounds {options.rounds}",
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "rows": options.rows,
        "dim": options.dim,
    }
    return found | {"formats": [*format_rows(options, say)], "scale": [*scale_rows(options, say)]}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    sizes = lambda text: [tuple(map(int, one.split("x"))) for one in text.split(",")]  # noqa: E731
    shares = lambda text: [float(one) for one in text.split(",")]  # noqa: E731
    largest = "10000x64,1000000x64,10000000x64,1000000x384"
    parser.add_argument("--rows", type=int, default=20_000, help="vectors kept in every format")
    parser.add_argument("--dim", type=int, default=384, help="of these vectors")
    parser.add_argument("--shares", type=shares, default="1,0.1", help="of them that are distinct")
    parser.add_argument("--scale", type=sizes, default=largest, metavar="ROWSxDIM,...", help="intent stores")
    parser.add_argument(
        "--rounds", type=int, default=3, help="processes that measure each; the median counts"
    )
    parser.add_argument("--folder", type=Path, help="where temporary files go")
    parser.add_argument("--results", type=Path, help="write store.json into this folder")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main() -> None:
    """Measure, write the JSON, print the tables."""
    options = arguments()
    if options.child:
        child(options.child)
        return
    from store_tables import store_part

    found = results(options, lambda text: print(text, file=sys.stderr, flush=True))
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "store.json").write_text(json.dumps(found, indent=1) + "\n")
    print(store_part(found))


if __name__ == "__main__":
    main()
