"""Prompts per second of an LLM as `infer` uses it, against one prompt at a time, and what each step adds.

    llm4sbr prepare runs/ml-100k --dataset ml-100k
    python benchmarks/infer.py runs/ml-100k --json benchmarks/results/infer.json

Two sets of the run's prompts are used. `distinct`: random sessions, both perspectives, no two prompts equal.
`repeated`: some prompts of the perspective `short`, each as often as it occurs in the run. Every set is sent
in the order of its sessions, in five ways, each of which adds one optimization to the previous one. All ways
run in every round, in one process per number of threads. Times are CPU time with one thread, which other load
on the machine affects less, and wall time with more. Takes about 15 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from infer_tables import SETS, WAYS, infer_part
from machine import circumstances, keep
from processes import Child, answer_for

PACKAGES = ("torch", "transformers", "llm4sbr")
PERSPECTIVES = ("long", "short")


def prompt_sets(run: Path, size: int, seed: int, wording: str) -> dict[str, list[str]]:
    """Both sets; `repeated` has a sixth as many distinct prompts, which makes it about as large."""
    from llm4sbr.asking.questions import Questions
    from llm4sbr.config import InferConfig
    from llm4sbr.data.prepared import load

    settings = InferConfig(perspectives=PERSPECTIVES, wording=wording)
    questions = Questions.of(load(run / "prepare"), settings)
    every = [questions.prompts(row) for row in range(len(questions.samples.keys))]
    rng = random.Random(seed)
    mixed = dict.fromkeys(prompt for row in rng.sample(every, min(size, len(every))) for prompt in row)
    short = [prompts[PERSPECTIVES.index("short")] for prompts in every]
    kept = set(rng.sample(sorted(set(short)), min(max(1, size // 6), len(set(short)))))
    return {"distinct": list(mixed)[:size], "repeated": [prompt for prompt in short if prompt in kept]}


class InferBench:
    """Asks one LLM in every way."""

    def __init__(
        self, run: Path, size: int, seed: int, llm: str, wording: str, options: dict[str, Any]
    ) -> None:
        from llm4sbr import registry

        self.sets = prompt_sets(run, size, seed, wording)
        self.llm = registry.create("llms", llm, **options)
        self.alone: dict[str, list[str]] = {}
        self.llm.generate(self.sets["distinct"][:2])  # loads the model

    def ready(self) -> dict[str, Any]:
        """The sets of prompts and the LLM, for the report."""
        counts = {name: {"prompts": len(one), "distinct": len(set(one))} for name, one in self.sets.items()}
        tokens = {name: sum(self.llm.count_tokens(one)) for name, one in self.sets.items()}
        for name, count in tokens.items():
            counts[name]["tokens"] = count
        return {"sets": counts, "fingerprint": self.llm.fingerprint}

    def ask(self, way: str, name: str) -> dict[str, float]:
        """Wall time, CPU time, and how many answers equal the answer to the prompt asked alone."""
        prompts = self.sets[name]
        with _without(self.llm, way):
            began = time.perf_counter(), time.process_time()
            answers = _ask(self.llm.generate, prompts, way)
            wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        if way == "one":
            self.alone[name] = answers
        same = Counter(map(str.__eq__, answers, self.alone[name]))[True]
        return {"wall": wall, "cpu": cpu, "same": same / len(prompts)}


def _ask(generate: Callable[[Sequence[str]], list[str]], prompts: list[str], way: str) -> list[str]:
    if way == "one":
        return [generate([prompt])[0] for prompt in prompts]
    if way != "once":
        return generate(prompts)
    distinct = list(dict.fromkeys(prompts))
    known = dict(zip(distinct, generate(distinct), strict=True))
    return [known[prompt] for prompt in prompts]


@contextmanager
def _without(llm: Any, way: str) -> Iterator[None]:
    """Disable the steps that a way does not have yet."""
    from llm4sbr.llms import transformers

    size = llm.batch_size
    in_order = lambda rows: [range(i, min(i + size, len(rows))) for i in range(0, len(rows), size)]  # noqa: E731
    place = list(WAYS).index(way)
    batches = in_order if place < list(WAYS).index("sorted") else llm._batches
    shared = (lambda rows: 0) if place < list(WAYS).index("shared") else transformers._shared
    with patch.object(llm, "_batches", batches), patch.object(transformers, "_shared", shared):
        yield


def measured(options: argparse.Namespace, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Results for one number of threads: one row per set and way, with all rounds."""
    task = {name: getattr(options, name) for name in ("size", "seed", "llm", "wording")}
    rounds: dict[tuple[str, str], list[Any]] = {(name, way): [] for name in SETS for way in WAYS}
    task |= {"run": str(options.run), "threads": threads, "options": options.options}
    with Child(__file__, task, threads=threads) as bench:
        for number in range(options.rounds):
            for name, way in rounds:
                say(f"{threads} threads, round {number + 1} of {options.rounds}: {name}, {WAYS[way]}")
                rounds[name, way].append(bench.ask(way=way, name=name))
        return bench.ready | {
            "rows": [
                {"threads": threads, "set": name, "way": way, "rounds": found}
                for (name, way), found in rounds.items()
            ]
        }


def child(task: dict[str, Any]) -> None:
    """Answer the requests on standard input."""
    import torch

    torch.set_num_threads(task.pop("threads"))
    bench = InferBench(Path(task.pop("run")), **task)
    answer_for(bench.ready(), bench.ask)


def results(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All results, for the JSON file."""
    found = [measured(options, threads, say) for threads in options.threads]
    command = f"python benchmarks/infer.py {options.run.name} --threads {','.join(map(str, options.threads))}"
    return {
        "command": f"{command} --size {options.size} --rounds {options.rounds} --llm {options.llm}",
        **circumstances(PACKAGES),
        "load": os.getloadavg()[0],
        "wording": options.wording,
        **{name: found[0][name] for name in ("sets", "fingerprint")},
        "rows": [row for one in found for row in one["rows"]],
    }


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("run", nargs="?", type=Path, help="a run directory that is prepared")
    parser.add_argument("--threads", type=lambda text: [*map(int, text.split(","))], default=[1, 2])
    parser.add_argument("--size", type=int, default=96, help="prompts of a set, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--llm", default="embedded", help="embedded, or transformers:FOLDER")
    parser.add_argument("--options", type=json.loads, default={}, help="of the LLM, JSON")
    parser.add_argument("--wording", default="natural")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if not (options.run or options.child):
        parser.error("name a run directory: llm4sbr prepare makes one")
    return options


def main() -> None:
    """Measure, write the JSON, print the table."""
    options = arguments()
    if options.child:
        child(options.child)
        return

    found = results(options, lambda text: print(text, file=sys.stderr, flush=True))
    keep(options.json, found)
    print(infer_part(found))


if __name__ == "__main__":
    main()
