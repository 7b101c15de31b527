"""The common approach that training is compared with gives the results of the fast path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm4sbr.data.batches import collate
from llm4sbr.fusion.losses import joint_loss
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.testing.toy_run import toy_run

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PLAIN = Recipe(9, 12, "sr-gnn")
FUSED = PLAIN._replace(fuser="gated", perspectives=("long", "short"), horizons=("long", "short"), text_dim=5)
PREFIXES = [[3], [1, 2, 1, 2, 3], [4, 4, 4], [5, 6, 7, 8, 9, 5, 6], [2, 3, 2, 4, 2]]


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import common_approach

    return common_approach


def data():
    clicks = [[*prefix, 1] for prefix in PREFIXES]
    offsets = torch.tensor([0, *map(len, clicks)]).cumsum(0)
    sessions = Sessions(torch.tensor([item for one in clicks for item in one]), offsets)
    return sessions, Samples(offsets[:-1], offsets[1:] - 1, torch.arange(len(PREFIXES)))


@pytest.mark.parametrize("recipe", [PLAIN, FUSED, FUSED._replace(backbone_options={"steps": 2})])
def test_same_scores_and_gradients(common, recipe):
    torch.manual_seed(0)
    fast, slow = build(recipe), common.common_model(recipe)
    slow.load_state_dict(fast.state_dict())
    sessions, samples = data()
    intents = torch.randn(len(PREFIXES), 2, 5).half().float() if recipe.fuser else None
    batch = collate(sessions, samples, torch.arange(len(PREFIXES)))
    other = common.CommonData(sessions, samples, intents).batch(list(range(len(PREFIXES))))
    one = fast.represent(batch.items, batch.mask, intents)
    two = slow.represent(other.items, other.mask, other.intents)
    torch.testing.assert_close(one.scores, two.scores, rtol=0, atol=1e-5)
    joint_loss(one, batch.target, tau=0.1).total.backward()
    joint_loss(two, other.target, tau=0.1).total.backward()
    for (name, first), second in zip(fast.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_toy_run_is_measured(tmp_path):
    run = toy_run(tmp_path / "run")
    out = tmp_path / "training-toy.json"
    options = [
        "--threads",
        "1",
        "--backbones",
        "sr-gnn",
        "--batches",
        "2",
        "--rounds",
        "1",
        "--json",
        str(out),
    ]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "training.py"), str(run), *options, "--json", str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    rows = {row["kind"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["plain", "intents", "common plain", "common intents"]
    assert all(row["samples_per_second"]["cpu"] > 0 for row in rows.values())
    assert rows["intents"]["peak_memory"] > 2**24
    assert done.stdout.count("| sr-gnn |") == 4
