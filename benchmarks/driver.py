r"""Memory of the process that runs `infer`, by number of samples: up to 5 million prompts to a trivial LLM.

    python benchmarks/driver.py --prompts 500000,1000000,5000000 --json benchmarks/results/driver.json

Every sample has a different prefix, and therefore two different prompts. Each size and engine is measured in
a fresh process: its memory without mapped files, ten times per second, for each part of the stage. Ray's
workers and object store are other processes and do not count. Data that grows with the samples is on disk:
the log and the prompt keys in temporary files (`TMPDIR`), answers in the cache, and the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import circumstances, keep
from processes import Child, answer_for

ITEMS = 5000
PACKAGES = ("torch", "polars", "llm4sbr")
WORKERS = 2
CLICKS = 3
"""Clicks per prefix, which allows 5000^3 different prefixes."""

LLM = '''
class Trivial:
    """Answers with the last line but one of the prompt."""

    batch_size = 512
    fingerprint = "trivial"

    def generate(self, prompts):
        return [prompt.splitlines()[-2].partition(". ")[2] for prompt in prompts]
'''


def make_run(run: Path, samples: int, *, seed: int = 0) -> None:
    """Write `prepare` of a run with this many samples, all for training."""
    import polars as pl
    import torch

    from llm4sbr.data.batches import sample_keys
    from llm4sbr.data.prepared import Prepared, save
    from llm4sbr.protocols import Catalogue, Samples, Sessions

    random = torch.Generator().manual_seed(seed)
    length = CLICKS + 1
    clicks = torch.randint(1, ITEMS + 1, (samples * length,), generator=random)
    sessions = Sessions(clicks, torch.arange(0, samples * length + 1, length))
    start = sessions.offsets[:-1].clone()
    end = start + CLICKS
    nothing = Samples(*(torch.zeros(0, dtype=torch.int64),) * 3)
    parts = {
        "train": Samples(start, end, sample_keys(sessions, start, end)),
        "valid": nothing,
        "test": nothing,
    }
    titles = [f"Article {number} of the collection" for number in range(ITEMS)]
    prepared = Prepared(Catalogue([str(i) for i in range(ITEMS)], titles), sessions, sessions, parts, {})
    (run / "prepare").mkdir(parents=True)
    names = pl.Series(range(samples)).cast(pl.String)
    save(run / "prepare", prepared, names=names, times=pl.Series(range(samples), dtype=pl.Float64))


def install(site: Path) -> None:
    """Install the LLM `Trivial` for this process and its children."""
    info = site / "trivial_llm-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trivial-llm\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[llm4sbr.llms]\ntrivial = trivial_llm:Trivial\n")
    (site / "trivial_llm.py").write_text(LLM)
    sys.path.insert(0, str(site))
    os.environ["PYTHONPATH"] = str(site)


class Watch:
    """Measures this process's memory, by part of the stage."""

    quiet = True

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.label = "load"
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure every tenth of a second."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        yield
        self._over.set()
        thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self._measure(self.label)

    def _measure(self, label: str) -> None:
        from llm4sbr.system import memory

        self.peaks[label] = max(self.peaks.get(label, 0), memory.anonymous())

    def note(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def task(self, label: str, total: int, *, unit: str = "") -> Iterator[Any]:
        """Name the part that runs from here on."""
        self.label = label
        yield lambda n=1, note="": None
        self._measure(label)  # a part may be shorter than the interval
        self.label = f"after {label}"


def child(task: dict[str, Any]) -> None:
    """Run the stage and report its memory and time."""
    from llm4sbr.config import build
    from llm4sbr.stages.infer import infer
    from llm4sbr.system import memory

    with tempfile.TemporaryDirectory() as folder:
        site, out, cache = (Path(folder, name) for name in ("site", "out", "answers.sqlite"))
        site.mkdir()
        out.mkdir()
        install(site)
        options = {"workers": WORKERS} if task["engine"] == "ray" else {}
        config = build(
            {
                "infer": {"llm": "trivial", "cache": cache, "controls": task["controls"]},
                "engine": {"name": task["engine"], "options": options},
            }
        )
        watch, before, began = Watch(), memory.anonymous(), time.monotonic()
        with watch.running():
            infer(Path(task["run"]), out, config, watch)  # type: ignore[arg-type]
        seconds = time.monotonic() - began
        found = {"before": before, "peaks": watch.peaks, "seconds": seconds, "cache": cache.stat().st_size}
    answer_for(found, lambda: {})


def rows(options: argparse.Namespace, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A row per size and engine; bytes and seconds."""
    for prompts in options.prompts:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            make_run(run, prompts // 2)
            for engine in options.engines:
                say(f"{prompts:,} prompts, {engine}")
                task = {"run": str(run), "engine": engine, "controls": options.controls}
                with Child(__file__, task, threads=1) as measured:
                    yield {"prompts": prompts, "engine": engine} | measured.ready


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    numbers = lambda text: [*map(int, text.split(","))]  # noqa: E731
    names = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    parser.add_argument("--prompts", type=numbers, default=[500_000, 1_000_000, 5_000_000])
    parser.add_argument("--engines", type=names, default=["local", "ray"])
    parser.add_argument("--controls", type=names, default=["item-text", "shuffled"])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main() -> None:
    """Measure, write the JSON, print the table."""
    options = arguments()
    if options.child:
        child(options.child)
        return
    from infer_tables import driver_part

    command = f"python benchmarks/driver.py --prompts {','.join(map(str, options.prompts))}"
    found: dict[str, Any] = {
        "command": f"{command} --engines {','.join(options.engines)}",
        "load": os.getloadavg()[0],
    }
    found |= circumstances(PACKAGES) | {"rows": []}
    for row in rows(options, lambda text: print(text, file=sys.stderr, flush=True)):
        found["rows"].append(row)
        keep(options.json, found)
    print(driver_part(found))


if __name__ == "__main__":
    main()
