"""A run that is killed fifty times ends with the very bytes of one that was left alone."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import polars as pl
import pytest

from llm4sbr import pipeline, store
from llm4sbr.config import nest
from llm4sbr.progress import Progress
from llm4sbr.testing.toy import toy_log

KILLS = 50

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
    toy_log(tmp_path / "log", items=300, sessions=700)

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
    assert len(prompts) == len(set(prompts)) > 1000

    context = multiprocessing.get_context("forkserver")  # children that have imported everything already
    context.set_forkserver_preload(
        ["llm4sbr.stages.prepare", "llm4sbr.stages.infer", "llm4sbr.stages.localize"]
    )
    rng, kills, inside = random.Random(0), 0, 0
    run, log = tmp_path / "killed", tmp_path / "killed.log"
    deadline = time.monotonic() + 270
    while kills < KILLS and time.monotonic() < deadline:
        child = context.Process(target=_bring, args=(str(run), chosen("killed")))
        before, began = len(_asked(log)), time.monotonic()
        child.start()
        wait = rng.uniform(0.0, 0.25)
        while child.is_alive() and len(_asked(log)) == before and time.monotonic() - began < 20:
            time.sleep(0.005)  # until it has something to lose
        time.sleep(wait)
        alive = child.is_alive()
        if alive and child.pid:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += alive
        inside += len(_asked(log)) > before
        if not alive:
            assert child.exitcode == 0
            break
    assert kills >= min(KILLS, 30), f"only {kills} kills in time"
    assert inside > kills // 2  # most of them hit the asking itself
    _bring(str(run), chosen("killed"))
    assert _hashes(run) == _hashes(undisturbed)
    assert len(_hashes(run)) == 4  # the items, and a shard of each source
    pairs = zip(_answers(run), _answers(undisturbed), strict=True)
    assert all(one.equals(other) for one, other in pairs)
    asked = _asked(log)
    assert set(asked) == set(prompts)
    assert len(asked) - len(prompts) <= 8 * kills  # a batch each, at most
