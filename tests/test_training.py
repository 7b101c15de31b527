"""Training of one model: when it stops, what it keeps, in which precision it computes."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm4sbr import registry
from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.data.prepared import load
from llm4sbr.errors import TrainingError
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.protocols import Encoded
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.toy_run import WIDTH, toy_run
from llm4sbr.testing.training import equal, log, record, settings, trained, weights
from llm4sbr.training import trainer


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads gain nothing on toys, and add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_learns_the_toy_rule(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    out = trained(run, settings(dim=16, epochs=40, learning_rate=0.02, decay=1, patience=40))
    assert record(out)["facts"]["valid"]["HR@5"] == 1
    model = load_model(out / "plain/seed-0").model
    assert model(*pad([[3, 4, 5]])).argmax().item() + 1 == 6


def test_early_stopping(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    facts = record(trained(run, settings(epochs=60, learning_rate=1e-12, patience=2)))["facts"]
    assert facts["epochs"] == facts["best_epoch"] + 2 < 60
    assert facts["still_rising"] is False


def test_the_limit_of_epochs_is_told_from_patience(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    one = record(trained(run, settings(epochs=1)))["facts"]  # nothing to compare with: the first is the best
    assert (one["epochs"], one["best_epoch"], one["still_rising"]) == (1, 1, True)
    fell = record(trained(run, settings(epochs=2, learning_rate=1e-12), "two"))["facts"]
    assert (fell["epochs"], fell["best_epoch"], fell["still_rising"]) == (2, 1, False)


def test_without_validation_all_epochs_are_trained(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",), valid=False)
    facts = record(trained(run, settings(epochs=4, patience=1)), "llm")["facts"]
    assert (facts["epochs"], facts["best_epoch"], facts["selected_on"], facts["valid"]) == (4, 4, "none", {})
    assert facts["still_rising"] is False  # nothing to rise


def test_paper_protocol_selects_on_test_and_says_so(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",), valid=False, split="paper")
    facts = record(trained(run, settings()), "llm")["facts"]
    assert facts["selected_on"] == "test"
    assert facts["valid"]["MRR@20"] > 0


def explosive(monkeypatch, after):
    """SR-GNN whose states are not numbers after so many training steps."""
    forward, steps = SRGNN.forward, []

    def bad(self, items, mask):
        encoded = forward(self, items, mask)
        steps.extend([1] if self.training else [])
        return Encoded(encoded.long * float("nan"), encoded.short) if len(steps) > after else encoded

    monkeypatch.setattr(SRGNN, "forward", bad)


def test_loss_that_is_not_a_number(tmp_path, monkeypatch):
    run = toy_run(tmp_path / "run", sources=())
    batches = -(-len(load(run / "prepare").samples["train"].key) // 32)
    explosive(monkeypatch, after=batches + 2)
    with pytest.raises(
        TrainingError, match=r"loss of epoch 2, batch 3 is not a finite number; lower train.learning_rate"
    ) as error:
        trained(run, settings())
    assert "\n" not in str(error.value)
    saved = load_model(run / "train/plain/seed-0")
    assert all(parameter.isfinite().all() for parameter in saved.model.parameters())
    assert saved.facts["best_epoch"] == 1
    assert "not a finite number" in saved.facts["stopped"]
    monkeypatch.undo()
    facts = record(trained(run, settings()))["facts"]  # mended: goes on from the last good epoch
    assert facts["epochs"] == 3
    assert "stopped" not in facts


def test_loss_that_is_never_a_number(tmp_path, monkeypatch):
    run = toy_run(tmp_path / "run", sources=())
    explosive(monkeypatch, after=0)
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1 is not .* no epoch was finished"):
        trained(run, settings())
    assert not (run / "train/plain/seed-0/model.json").exists()


BACKBONES = [one.name for one in registry.components("backbones") if one.package == registry.CORE]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bf16_trains_and_keeps_float32(tmp_path, backbone):
    run = toy_run(tmp_path / "run", sources=("llm",))
    some = {"backbone": backbone, "epochs": 2, "controls": (), "patience": 9, "fuser": "gated"}
    some |= {"neighbours": 0, "counted": ()}  # a loss near zero differs by more than a twentieth
    exact, coarse = (trained(run, settings(precision=name, **some), name) for name in ("fp32", "bf16"))
    for variant in ("plain", "llm"):
        losses = [line["loss"] for line in log(coarse, variant)]
        assert all(math.isfinite(loss) for loss in losses)
        assert losses == pytest.approx([line["loss"] for line in log(exact, variant)], rel=0.05)
        one, two = weights(exact, variant), weights(coarse, variant)
        assert not equal(one, two)
        assert {name: tensor.dtype for name, tensor in one.items()} == {
            name: tensor.dtype for name, tensor in two.items()
        }


@pytest.mark.slow
def test_bf16_learns_the_toy_rule(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    some = {"dim": 16, "epochs": 40, "learning_rate": 0.02, "decay": 1, "patience": 40}
    assert record(trained(run, settings(precision="bf16", **some)))["facts"]["valid"]["HR@5"] == 1


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated"
)  # PyTorch's own, in its compiler
def test_compiled_training_is_the_same(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",))
    some = {"controls": (), "fuser": "gated", "batch_size": 4096}
    # No dropout, for which a compiler draws other numbers, and one shape of batches, which is compiled once.
    eager = trained(run, settings(**some), "eager")
    compiled = trained(run, settings(**some, compile=True), "compiled")
    for variant in ("plain", "llm"):
        one, two = weights(eager, variant), weights(compiled, variant)
        for name in one.keys() - {"predictor.map.weight", "predictor.map.bias"}:  # ill-conditioned
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-3)
        losses = [[line["loss"] for line in log(out, variant)] for out in (eager, compiled)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_compile_without_a_compiler_is_one_line(tmp_path, monkeypatch):
    run = toy_run(tmp_path / "run", sources=())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TrainingError, match=r"needs a C\+\+ compiler .* set train.compile=false") as error:
        trained(run, settings(compile=True))
    assert "\n" not in str(error.value)


SCORE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from llm4sbr.fusion.saved import load_model, save_model

torch.set_num_threads(1)
batch = {name: one.clone() for name, one in load_file(sys.argv[1]).items()}  # aligned as in memory
scores = {}
for path in sys.argv[3:]:
    model = load_model(Path(path)).model
    with torch.inference_mode():
        scores[path] = model(batch["items"], batch["mask"], batch["intents"] if model.horizons else None)
save_file(scores, sys.argv[2])
"""


@pytest.mark.slow
def test_every_backbone_scores_the_same_in_a_fresh_process(tmp_path, monkeypatch):
    """What `train_model` had in its hands when it saved, against what another process loads."""
    run = toy_run(tmp_path / "run", sources=("llm",))
    items, mask = pad([[3], [1, 2, 3, 4, 5], [7, 7, 7], [2, 9, 2, 9, 4, 2]])
    intents = torch.randn(4, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"items": items, "mask": mask, "intents": intents}, tmp_path / "batch.safetensors")
    scores = {}

    def score_and_save(folder, model, **rest):
        with torch.inference_mode():
            scores[str(folder)] = model.eval()(items, mask, intents if model.horizons else None)
        save_model(folder, model, **rest)

    monkeypatch.setattr(trainer, "save_model", score_and_save)
    for backbone in BACKBONES:
        trained(run, settings(backbone=backbone, epochs=1, controls=(), intent_dropout=0.2), backbone)
    assert len(scores) == 3 * len(BACKBONES)
    command = [sys.executable, "-c", SCORE, tmp_path / "batch.safetensors", tmp_path / "found.safetensors"]
    subprocess.run([*command, *scores], check=True)
    found = load_file(tmp_path / "found.safetensors")
    differ = {k: (found[k] - v).abs().max().item() for k, v in scores.items() if not torch.equal(found[k], v)}
    assert scores.keys() == found.keys()
    assert not differ


SEVERAL = [one if one == "sr-gnn" else pytest.param(one, marks=pytest.mark.slow) for one in BACKBONES]


@pytest.mark.parametrize("backbone", SEVERAL)
def test_every_backbone_is_the_same_for_a_seed(tmp_path, backbone):
    run = toy_run(tmp_path / "run", sources=("llm",))
    some = settings(backbone=backbone, epochs=1, controls=(), intent_dropout=0.2)
    one, two = (trained(run, some, name) for name in ("one", "two"))
    assert all(equal(weights(one, variant), weights(two, variant)) for variant in ("plain", "llm"))


def rates(run, name, **changes):
    out = trained(run, settings(**changes), name)
    lines = log(out)
    return [(line["learning_rate"], line["valid"]["MRR@20"]) for line in lines]


def test_the_rate_falls_where_validation_does_not_rise(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    found = rates(run, "a", epochs=12, patience=4, learning_rate=0.05, decay=0.5)
    best, expected = -1.0, 0.05
    for rate, value in found:
        assert rate == pytest.approx(expected)
        expected *= 1 if value > best else 0.5
        best = max(best, value)
    assert found[-1][0] < 0.05


def test_after_a_worse_epoch_training_goes_on_from_the_best(tmp_path):
    """With a decay to next to nothing, the epoch after a worse one is as good as the best."""
    run = toy_run(tmp_path / "run", sources=())
    found = rates(run, "a", epochs=12, patience=4, learning_rate=1.0, decay=1e-9)
    worse = next(i for i in range(1, len(found)) if found[i][1] < found[i - 1][1])
    assert found[worse + 1][1] == pytest.approx(max(value for _, value in found[:worse]), rel=1e-6)


def test_the_schedule_of_the_paper_counts_epochs(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    some = {"schedule": "epochs", "decay": 0.1, "decay_every": 2, "patience": 9, "learning_rate": 0.1}
    found = [rate for rate, _ in rates(run, "a", epochs=5, **some)]
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
