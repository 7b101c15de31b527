"""Items that are held out, and how `evaluate --cold` tests on them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from llm4sbr import pipeline, store
from llm4sbr.cli import cli
from llm4sbr.data import cold
from llm4sbr.data.prepared import load
from llm4sbr.data.sessions import ClickLog
from llm4sbr.errors import DataError, StoreError
from llm4sbr.progress import Progress
from llm4sbr.stages.cold import evaluate_cold

sys.path.insert(0, str(Path(__file__).parent))

from toy_runs import settings

QUIET = Progress(quiet=True)


def _log() -> ClickLog:
    items = np.array([0, 1, 0, 2, 1, 3, 0, 2, 3])
    start = np.array([10.0, 20.0, 30.0])
    names, keys = pl.Series(["a", "b", "c"]), pl.Series(["w", "x", "y", "z"])
    return ClickLog(items, np.array([0, 2, 5, 9]), start, start + 1, names, keys)


def test_the_newest_items_by_hand():
    # First clicks: w 10, x 10, y 20, z 30.
    assert cold.held_out(_log(), 0.25, least=1).tolist() == [False, False, False, True]
    assert cold.held_out(_log(), 0.5, least=1).tolist() == [False, False, True, True]
    assert cold.held_out(_log(), 0.5, least=3).tolist() == [False] * 4  # half of the one item, rounded
    assert not cold.held_out(_log(), 0.0, least=1).any()


def test_the_samples_by_hand():
    known, held = np.array([True, True, False, False]), np.array([False, False, True, True])
    found = cold.samples_of(_log(), known, held, longest=5)
    # Session b: w, y. Session c: z is first and has nothing before it; then w, y and z again.
    assert (found.prefixes, found.targets) == ([[0], [0], [0]], [2, 2, 3])
    assert cold.samples_of(_log(), known, held & False, longest=5).targets == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("cold")
    given = settings(base)
    given["train"] |= {"plain": False, "epochs": 2}
    given["infer"] |= {"controls": []}
    given["data"]["hold_out"] = 0.1
    pipeline.execute(base / "run", given, progress=QUIET)
    return base / "run"


@pytest.mark.slow
def test_nothing_of_them_is_trained_validated_or_tested_on(run: Path) -> None:
    prepared, (prefixes, keys, items) = load(run / "prepare"), cold.load(run / "prepare")
    assert len(items.keys) == 2
    assert not set(items.keys) & set(prepared.catalogue.keys)
    assert prepared.catalogue.size == 18
    assert set(keys) == set(items.keys)
    assert all(1 <= one <= 18 for prefix in prefixes for one in prefix)
    # The toy log's item i is followed by item i + 1.
    for prefix, key in zip(prefixes, keys, strict=True):
        last = int(prepared.catalogue.keys[prefix[-1] - 1][1:])
        assert (int(key[1:]) - last) % 20 in (1, 2)


@pytest.mark.slow
def test_the_figures(run: Path) -> None:
    found = evaluate_cold(run)
    assert found == store.read_json(run / "evaluate/cold.json")
    assert (found["items"], found["new_items"]) == (18, 2)
    assert set(found["new"]) == {"model", "text only", "category of the last click", "ids only"}
    assert found["new"]["ids only"] == found["k"] / 20
    assert all(0 <= value <= 1 for value in found["new"].values())
    tested = store.read_tensors(run / "evaluate/ranks.safetensors")
    assert found["samples_on_others"] == len(next(iter(tested.values())))
    told = CliRunner().invoke(cli, ["evaluate", str(run), "--cold", "-q"])
    assert told.exit_code == 0, told.output
    assert "items held out" in told.output


@pytest.mark.slow
def test_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no items were held out"):
        cold.load(tmp_path)
    with pytest.raises(DataError, match=r"data\.hold_out = 0\.1: not with data\.split=leave-last-out"):
        pipeline.execute(run, {"data": {"split": "leave-last-out"}}, progress=QUIET, until="prepare")
