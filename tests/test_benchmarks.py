"""The common approach that training is compared with gives the results of the fast path."""

from __future__ import annotations

import json
import os
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


@pytest.mark.slow
def test_a_toy_run_is_measured(tmp_path):
    run = toy_run(tmp_path / "run")
    options = ["--threads", "1", "--backbones", "sr-gnn,stamp", "--batches", "2", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "training.py"), f"toy={run}", *options, "--results", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads((tmp_path / "training-toy.json").read_text())
    rows = {(row["backbone"], row["kind"]): row["rounds"] for row in found["rows"]}
    common = [("sr-gnn", "common plain"), ("sr-gnn", "common intents")]
    assert list(rows) == [(b, kind) for b in ("sr-gnn", "stamp") for kind in ("plain", "intents")] + common
    assert all(rounds[0]["cpu"] > 0 for rounds in rows.values())
    assert [row["anonymous"] > 2**24 for row in found["memory"]] == [True, True]
    growth = [(row["share"], row["kind"], len(row["rounds"])) for row in found["growth"]]
    assert growth == [(share, kind, 1) for share in (0.25, 0.5, 1.0) for kind in ("plain", "intents")]
    assert done.stdout.count("| stamp |") == 2


def test_ratios_are_medians_of_the_rounds_ratios(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from training_tables import speed_table

    def row(kind, *rates):
        rounds = [{"cpu": rate, "wall": 1.0} for rate in rates]
        return {"backbone": "sr-gnn", "kind": kind, "threads": 1, "rounds": rounds}

    # Rounds of plain / intents: 100 / 50, 300 / 200, 90 / 60; of intents / common: 5, 10, 6.
    rows = [row("plain", 100, 300, 90), row("intents", 50, 200, 60), row("common intents", 10, 20, 10)]
    lines = speed_table({"rows": rows, "training_samples": 600}).splitlines()
    assert lines[2:] == [
        "| sr-gnn | 1 | plain | 100 | 6.0 | 1.00 | 1.00 |  |",
        "| sr-gnn | 1 | intents | 60 | 10.0 | 1.50 | 1.00 | 6.0 |",
        "| sr-gnn | 1 | common intents | 10 | 60.0 |  |  |  |",
    ]


def test_what_intents_cost_is_the_median_of_whole_epochs_in_turns(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from training_tables import growth_table

    def row(kind, *seconds):
        rounds = [{"cpu": one, "wall": 1.0} for one in seconds]
        return {"kind": kind, "share": 1.0, "samples": 1000, "rounds": rounds}

    # Rounds of intents / plain: 11 / 10, 24 / 20, 10 / 8; the machine's slow round counts in both.
    lines = growth_table({"growth": [row("plain", 10, 20, 8), row("intents", 11, 24, 10)]}).splitlines()
    assert lines[2:] == [
        "| plain | 100% | 1,000 | 10.0 | 10.000 | 1.00 |",
        "| intents | 100% | 1,000 | 11.0 | 11.000 | 1.20 |",
    ]


def test_parts_of_the_gpu_script_fail_alone(tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\necho ran "$@"\ncase "$*" in *training*) exit 3;; esac\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "nvidia-smi").symlink_to("/bin/true")
    environment = os.environ | {
        "PYTHON": str(tmp_path / "python"),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    script = [BENCHMARKS / "gpu.sh", tmp_path / "found"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    log = (tmp_path / "found" / "log.txt").read_text()
    assert "== training failed with 3" in log
    assert "latency.py --sizes 10k,100k,1m" in log.split("== training failed")[1]
    assert subprocess.run([BENCHMARKS / "gpu.sh"], capture_output=True, check=False).returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_combination_that_fails_is_a_row(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import training_device

    task = training_device.combinations([30])[0] | {"batches": 2, "device": "cuda"}
    assert "cuda" in training_device.measured(task, 60)["failed"].lower()
    assert training_device.measured(task, 0.01)["failed"] == "took longer than 0.01 seconds"
    losses = [(one["loss"], one["compile"]) for one in training_device.combinations([300_000])]
    assert losses.count(("popularity", False)) == 2
    assert ("popularity", True) not in losses
