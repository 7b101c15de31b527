"""Training that is killed and goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llm4sbr import stamps
from llm4sbr.errors import StoreError
from llm4sbr.freshness import part_stamp
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.testing.training import equal, record, settings, trained, weights


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads gain nothing on toys, and add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    config = build({settings(**LONG).model_dump()!r}, {{"train": {{"workers": int(sys.argv[2])}} | OTHERS}})
    stage.train(Path(sys.argv[1]), Path(sys.argv[1]) / "train", config, Progress(quiet=True))
"""


def start(folder, run, workers, **others):
    """Train in another process until it is stopped."""
    script = folder / "script.py"
    script.write_text(f"OTHERS = {others!r}\n{SCRIPT}")
    with (folder / "errors.txt").open("w") as errors:
        return subprocess.Popen([sys.executable, script, run, str(workers)], stderr=errors)


def wait_for(condition, seconds=120):
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


@pytest.mark.slow
@pytest.mark.parametrize("loss", [{}, {"loss": "popularity", "negatives": 6}])
def test_killed_training_ends_with_the_same_weights(tmp_path, loss):
    """kill -9 in the middle of the second model; resumed, it has the very bits of an undisturbed one."""
    run = toy_run(tmp_path / "run", sources=("llm",))
    whole = trained(run, settings(**LONG, **loss), "whole")
    (run / "train").mkdir()
    process = start(tmp_path, run, 1, **loss)
    wait_for(lambda: epochs_done(run / "train", "llm") >= 3)
    process.kill()
    process.wait()
    killed = run / "train"
    assert (killed / "llm/seed-0/checkpoint.safetensors").exists()
    assert not (killed / "llm/seed-0/model.json").exists()
    finished = (killed / "plain/seed-0/model.json").stat().st_mtime_ns
    trained(run, settings(**LONG, **loss))
    assert (killed / "plain/seed-0/model.json").stat().st_mtime_ns == finished  # not trained again
    for variant in ("plain", "llm"):
        assert equal(weights(whole, variant), weights(killed, variant))
        facts = [record(out, variant)["facts"] for out in (whole, killed)]
        assert facts[0]["valid"] == facts[1]["valid"]
        assert facts[0]["best_epoch"] == facts[1]["best_epoch"]
        assert epochs_done(killed, variant) == LONG["epochs"]
        left = sorted(path.name for path in (killed / variant / "seed-0").iterdir())
        assert left == ["log.jsonl", "model.json", "model.safetensors", "moments.safetensors", "stage.json"]


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


def test_broken_checkpoint(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    folder = run / "train/plain/seed-0"
    attempt = stamps.Attempt.alone(run / "train", "train")
    stamps.begin_part(folder, part_stamp(run, "plain/seed-0", attempt))
    (folder / "checkpoint.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors"):
        trained(run, settings())
