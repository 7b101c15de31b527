from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm4sbr import store
from llm4sbr.asking.order import order
from llm4sbr.config import build, nest
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.prepared import load
from llm4sbr.progress import Progress
from llm4sbr.testing.toy_run import toy_run

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("selection") / "run", sources=())


def _order(run: Path, out: Path, select: str, **settings: object) -> tuple[list[int], Distinct]:
    out.mkdir(exist_ok=True)
    prepared = load(run / "prepare")
    samples = Distinct.of(prepared)
    config = build(nest({"infer.select": select, "train.dim": 8, **settings}))
    return list(order(run, out, samples, prepared, config, QUIET)), samples


@pytest.mark.parametrize("select", ["random", "recent", "uncertain"])
def test_every_sample_once_and_the_same_again(run, tmp_path, select):
    rows, samples = _order(run, tmp_path / "a", select)
    assert sorted(rows) == list(range(len(samples.keys)))
    assert _order(run, tmp_path / "b", select)[0] == rows
    assert _order(run, tmp_path / "c", select, **{"infer.seed": 1})[0] != rows


def test_recent_begins_with_the_latest_session(run, tmp_path):
    rows, samples = _order(run, tmp_path / "a", "recent")
    offsets = load(run / "prepare").sessions.offsets
    owners = torch.searchsorted(offsets, samples.end[rows], right=True)
    assert owners.tolist() == sorted(owners.tolist(), reverse=True)
    assert owners[0] != owners[-1]


def test_uncertain_is_by_entropy_kept_for_a_restart(run, tmp_path):
    rows, _ = _order(run, tmp_path / "a", "uncertain")
    entropy = store.read_tensors(tmp_path / "a" / "uncertainty.safetensors")["entropy"]
    assert bool((entropy[rows].diff() <= 0).all())
    assert 0 < float(entropy.min()) < float(entropy.max()) <= float(torch.tensor(20.0).log()) + 1e-5
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["uncertainty.safetensors"]
    assert _order(run, tmp_path / "a", "uncertain")[0] == rows
