"""Stage `train` on a toy run: what is trained, resumption after a kill, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

from llm4sbr import parallel
from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.config import build
from llm4sbr.data.prepared import load, save
from llm4sbr.errors import StoreError, TrainingError
from llm4sbr.fusion.saved import load_model
from llm4sbr.progress import Progress
from llm4sbr.protocols import Encoded
from llm4sbr.stages.train import train, variants
from llm4sbr.store import read_tensors
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.toy_run import WIDTH, toy_run

QUIET = Progress(quiet=True)


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads gain nothing on toys, and add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(llm="embedded", controls=("item-text", "shuffled", "none"), **changes):
    base = {"dim": 8, "epochs": 3, "learning_rate": 0.01, "workers": 1, "device": "cpu", "batch_size": 32}
    return build({"infer": {"llm": llm, "controls": list(controls)}, "train": base | changes})


def trained(run, config, name="train"):
    out = run / name
    out.mkdir(exist_ok=True)
    train(run, out, config, QUIET)
    return out


def record(out, variant="plain", seed=0):
    return json.loads((out / variant / f"seed-{seed}" / "model.json").read_text())


def weights(out, variant="plain", seed=0):
    return read_tensors(out / variant / f"seed-{seed}" / "model.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_every_variant_and_seed(tmp_path):
    run = toy_run(tmp_path / "run")
    out = trained(run, settings(seeds=2, seed=5))
    found = sorted(path.relative_to(out).as_posix() for path in out.glob("*/seed-*"))
    names = ("item-text", "llm", "none", "plain", "shuffled")
    assert found == [f"{name}/seed-{seed}" for name in names for seed in (5, 6)]
    for folder in out.glob("*/seed-*"):
        assert sorted(path.name for path in folder.iterdir()) == [
            "log.jsonl",
            "model.json",
            "model.safetensors",
        ]
    facts = record(out, "llm", 6)["facts"]
    assert (facts["variant"], facts["llm"], facts["seed"], facts["selected_on"]) == (
        "llm",
        "embedded",
        6,
        "valid",
    )
    assert facts["peak_memory"] > 2**20
    assert facts["samples_per_second"] > 0
    recipe = record(out, "llm", 6)["recipe"]
    assert (recipe["perspectives"], recipe["horizons"], recipe["text_dim"]) == (["long", "short"],) * 2 + (
        WIDTH,
    )
    log = [json.loads(line) for line in (out / "llm/seed-6/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert log[2]["loss"] < log[0]["loss"]
    best = max(log, key=lambda line: line["valid"]["MRR@20"])
    assert facts["best_epoch"] == best["epoch"]
    assert facts["valid"] == best["valid"]


def test_which_variants(tmp_path):
    run = toy_run(tmp_path / "run", sources=("shuffled", "llm"))
    assert variants(run, settings()) == ["plain", "llm", "shuffled", "none"]
    assert variants(run, settings(controls=("shuffled",), plain=False)) == ["llm", "shuffled"]
    bare = toy_run(tmp_path / "bare", sources=())
    assert variants(bare, settings(plain=False)) == ["plain"]


def test_same_seed_same_weights_side_by_side_or_not(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",))
    one = trained(run, settings(intent_dropout=0.3), "one")
    workers = max(2, os.cpu_count() or 1)  # so that each worker has one thread
    two = trained(run, settings(intent_dropout=0.3, workers=workers), "two")
    for variant in ("plain", "llm", "none"):
        assert equal(weights(one, variant), weights(two, variant))
    other = trained(run, settings(intent_dropout=0.3, seed=1), "other")
    assert not torch.equal(weights(one)["backbone.items"], weights(other, seed=1)["backbone.items"])


def test_intents_and_dropout_have_an_effect(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",))
    plain = trained(run, settings(), "a")
    dropped = trained(run, settings(intent_dropout=0.5), "b")
    assert equal(weights(plain, "plain"), weights(dropped, "plain"))
    assert not equal(weights(plain, "llm"), weights(dropped, "llm"))
    assert not equal(weights(plain, "llm"), weights(plain, "none"))


def test_global_random_state_is_left_alone(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    before = torch.get_rng_state()
    trained(run, settings(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_learns_the_toy_rule(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    out = trained(run, settings(dim=16, epochs=40, learning_rate=0.02, decay=1, patience=40))
    assert record(out)["facts"]["valid"]["HR@5"] == 1
    model = load_model(out / "plain/seed-0").model
    assert model(*pad([[3, 4, 5]])).argmax().item() + 1 == 6


LONG = {"epochs": 8, "patience": 99, "batch_size": 8, "intent_dropout": 0.2, "controls": ()}
SCRIPT = f"""
import sys
from pathlib import Path
import torch
from llm4sbr.config import build
from llm4sbr.progress import Progress
from llm4sbr.stages import train as stage

if __name__ == "__main__":
    torch.set_num_threads(1)
    config = build({settings(**LONG).model_dump()!r}, {{"train": {{"workers": int(sys.argv[2])}}}})
    stage.train(Path(sys.argv[1]), Path(sys.argv[1]) / "train", config, Progress(quiet=True))
"""


def start(folder, run, workers):
    """Train in another process until it is stopped."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    with (folder / "errors.txt").open("w") as errors:
        return subprocess.Popen([sys.executable, script, run, str(workers)], stderr=errors)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def epochs_done(out, variant):
    log = out / variant / "seed-0" / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_killed_training_ends_with_the_same_weights(tmp_path):
    """kill -9 in the middle of the second model; resumed, it has the very bits of an undisturbed one."""
    run = toy_run(tmp_path / "run", sources=("llm",))
    whole = trained(run, settings(**LONG), "whole")
    (run / "train").mkdir()
    process = start(tmp_path, run, 1)
    wait_for(lambda: epochs_done(run / "train", "llm") >= 3)
    process.kill()
    process.wait()
    killed = run / "train"
    assert (killed / "llm/seed-0/checkpoint.safetensors").exists()
    assert not (killed / "llm/seed-0/model.json").exists()
    finished = (killed / "plain/seed-0/model.json").stat().st_mtime_ns
    trained(run, settings(**LONG))
    assert (killed / "plain/seed-0/model.json").stat().st_mtime_ns == finished  # not trained again
    for variant in ("plain", "llm"):
        assert equal(weights(whole, variant), weights(killed, variant))
        facts = [record(out, variant)["facts"] for out in (whole, killed)]
        assert facts[0]["valid"] == facts[1]["valid"]
        assert facts[0]["best_epoch"] == facts[1]["best_epoch"]
        assert epochs_done(killed, variant) == LONG["epochs"]
        left = sorted(path.name for path in (killed / variant / "seed-0").iterdir())
        assert left == ["log.jsonl", "model.json", "model.safetensors"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path, how):
    run = toy_run(tmp_path / "run", sources=("llm",))
    (run / "train").mkdir()
    process = start(tmp_path, run, 2)
    wait_for(lambda: epochs_done(run / "train", "llm") and epochs_done(run / "train", "plain"))
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(how)
    process.wait(60)
    wait_for(lambda: not any(alive(pid) for pid in workers), 30)
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in (tmp_path / "errors.txt").read_text()


def run_parallel(work, jobs=(1, 2, 3)):
    parallel.run(work, jobs, workers=2, progress=lambda *_: None, done=lambda *_: None)


def test_dead_worker_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "work_functions.py").write_text(
        "import os, signal\nfrom llm4sbr.errors import TrainingError\n"
        "def die(job, report):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "def refuse(job, report):\n    raise TrainingError(f'job {job} went wrong')\n"
        "def double(job, report):\n    report(1, 'note')\n    return 2 * job\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import work_functions

    with pytest.raises(
        TrainingError, match=r"a worker process died .SIGKILL.*run the same command again"
    ) as error:
        run_parallel(work_functions.die)
    assert "\n" not in str(error.value)
    with pytest.raises(TrainingError, match=r"job \d went wrong"):
        run_parallel(work_functions.refuse)
    results, notes = {}, []
    parallel.run(
        work_functions.double,
        [5, 6, 7],
        workers=2,
        progress=lambda *said: notes.append(said),
        done=lambda index, result: results.update({index: result}),
    )
    assert results == {0: 10, 1: 12, 2: 14}
    assert sorted(notes) == [(0, 1, "note"), (1, 1, "note"), (2, 1, "note")]


def test_early_stopping(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    facts = record(trained(run, settings(epochs=60, learning_rate=1e-12, patience=2)))["facts"]
    assert facts["epochs"] == facts["best_epoch"] + 2 < 60


def test_without_validation_all_epochs_are_trained(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",), valid=False)
    facts = record(trained(run, settings(epochs=4, patience=1)), "llm")["facts"]
    assert (facts["epochs"], facts["best_epoch"], facts["selected_on"], facts["valid"]) == (4, 4, "none", {})


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


def test_intents_of_another_catalogue(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",))
    manifest = run / "localize/llm/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"catalogue": "0" * 64}))
    with pytest.raises(StoreError, match=r"another catalogue .* run localize again"):
        trained(run, settings(plain=False))


def test_nothing_to_train_on(tmp_path):
    run = toy_run(tmp_path / "run", sessions=3, sources=())
    whole = load(run / "prepare")
    empty = whole.samples["train"]._replace(**{f: t[:0] for f, t in whole.samples["train"]._asdict().items()})
    stats = {"rules": {"split": "temporal"}}
    save(
        run / "prepare",
        whole._replace(samples=whole.samples | {"train": empty}, stats=stats),
        names=pl.Series(["a", "b", "c"]),
        times=pl.Series([0.0, 1.0, 2.0]),
    )
    with pytest.raises(TrainingError, match="no training samples"):
        trained(run, settings())


def test_broken_checkpoint(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    folder = run / "train/plain/seed-0"
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors"):
        trained(run, settings())
