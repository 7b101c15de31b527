"""A run that is killed fifty times ends with the very bytes of one that was left alone."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from llm4sbr import pipeline, store
from llm4sbr.config import nest
from llm4sbr.progress import Progress
from llm4sbr.testing.toy import toy_log

KILLS = 50
LATE = 5
"""Of these, kills while `localize` writes."""

ECHO = '''
import hashlib, time

class Echo:
    """Answers with a title of the prompt that only the prompt decides; counts what it was asked."""

    batch_size = 8
    fingerprint = "echo"

    def __init__(self, *, log):
        self.log = log

    def generate(self, prompts):
        time.sleep(0.01)
        with open(self.log, "a") as stream:
            stream.write("".join(hashlib.sha256(p.encode()).hexdigest() + "\\n" for p in prompts))
        titles = [[t.partition(". ")[2] for t in p.splitlines()[1:-1]] for p in prompts]
        return [t[len(p) % len(t)] for p, t in zip(prompts, titles)]
'''


def _bring(run: str, chosen: dict[str, object]) -> None:
    """What the child does."""
    pipeline.execute(Path(run), chosen, until="localize", progress=Progress(quiet=True))


def _hashes(run: Path) -> dict[str, str]:
    files = run.glob("localize/**/*.safetensors")
    return {str(path.relative_to(run)): store.file_sha256(path) for path in sorted(files)}


def _answers(run: Path) -> list[pl.DataFrame]:
    """What was answered; how long it took differs."""
    files = sorted(run.glob("infer/*/*.parquet"))
    return [pl.read_parquet(path, columns=["key", "answer", "parsed"]) for path in files]


def _asked(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@pytest.mark.slow
def test_fifty_kills_at_random_moments_cost_nothing_but_the_batch_in_flight(install, tmp_path):
    entries = {
        "llms": {"echo": "echo_llm:Echo"},
        "encoders": {"letters": "llm4sbr.testing.localizers:LetterEncoder"},
    }
    install("echo-llm", entries, echo_llm=ECHO)
    toy_log(tmp_path / "log", items=300, sessions=1400)

    def chosen(name: str) -> dict[str, object]:
        return nest(
            {
                "data.reader": "csv", "data.path": str(tmp_path / "log"), "data.min_item_count": 1,
                "infer.llm": "echo", "infer.options": {"log": str(tmp_path / f"{name}.log")},
                "infer.cache": str(tmp_path / f"{name}.sqlite"), "localize.encoder": "letters",
            }
        )  # fmt: skip

    undisturbed, log = tmp_path / "undisturbed", tmp_path / "undisturbed.log"
    _bring(str(undisturbed), chosen("undisturbed"))
    prompts = _asked(log)
    assert len(prompts) == len(set(prompts)) > 2000

    context = multiprocessing.get_context("forkserver")  # children that have imported everything already
    context.set_forkserver_preload(
        ["llm4sbr.stages.prepare", "llm4sbr.stages.infer", "llm4sbr.stages.localize"]
    )
    rng, inside, localizing = random.Random(0), 0, 0
    run, log = tmp_path / "killed", tmp_path / "killed.log"
    step = len(prompts) // KILLS

    def kill(ready: Callable[[], bool], wait: float) -> None:
        """Start a child, and kill it a moment after it is ready; it must not have ended before."""
        child = context.Process(target=_bring, args=(str(run), chosen("killed")))
        deadline = time.monotonic() + 60
        child.start()
        while child.is_alive() and not ready():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.002)
        time.sleep(wait)
        assert child.is_alive(), "it ended before it was killed"
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()

    for number in range(KILLS - LATE):
        before = len(_asked(log))
        if number % 6:  # while it asks, where it has something to lose
            wanted = before + rng.randint(1, step)
            kill(lambda wanted=wanted: len(_asked(log)) >= wanted, rng.uniform(0.0, 0.01))
        else:  # anywhere: while it starts, prepares, plans
            kill(lambda: True, rng.uniform(0.0, 1.0))
        inside += len(_asked(log)) > before
    assert inside > KILLS // 2
    assert len(set(_asked(log))) < len(prompts)
    for _ in range(LATE):  # all is asked, and localize writes
        begun = run / "localize.tmp"
        kill(begun.exists, rng.uniform(0.0, 0.05))
        localizing += begun.exists()
    assert localizing == LATE
    _bring(str(run), chosen("killed"))
    assert _hashes(run) == _hashes(undisturbed)
    assert {name.split("/")[1] for name in _hashes(run)} >= {"llm", "item-text", "shuffled"}
    pairs = zip(_answers(run), _answers(undisturbed), strict=True)
    assert all(one.equals(other) for one, other in pairs)
    asked = _asked(log)
    assert set(asked) == set(prompts)
    assert len(asked) - len(prompts) <= 8 * KILLS  # a batch each, at most
