"""Several processes train one model: the gradient of the whole batch, and one line if one of them fails."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.distributed import HashStore

from llm4sbr.cli import _guarded
from llm4sbr.config import TrainConfig
from llm4sbr.data.batches import Batch
from llm4sbr.data.prepared import load
from llm4sbr.errors import PeerError
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import load_model
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log
from llm4sbr.testing.training import log, record, weights
from llm4sbr.training.step import Step
from llm4sbr.training.team import ALONE, Team

CPU = torch.device("cpu")


def batch_of(sessions):
    items, mask = pad(sessions)
    return Batch(items, mask, torch.arange(len(sessions)) % 9 + 1, torch.arange(len(sessions)))


@given(samples=st.integers(1, 40), size=st.integers(1, 9))
@examples(max_examples=40, deadline=None)
def test_every_sample_belongs_to_one_process(samples, size):
    batch = batch_of([[1, 2]] * samples)
    teams = [Team(rank, size) for rank in range(size)]
    parts = [team.part(batch) for team in teams]
    assert torch.cat([part.batch.index[: part.own] for part in parts]).tolist() == list(range(samples))
    assert [part.start for part in parts if part.own] == [int(p.batch.index[0]) for p in parts if p.own]
    assert all(len(part.batch.index) == max(part.own, 1) for part in parts)
    assert sum(team.weight(part) for team, part in zip(teams, parts, strict=True)) == pytest.approx(size)


class Threads(Team):
    """A team whose processes are threads of this one."""

    def __init__(self, rank, size, shared):
        super().__init__(rank, size)
        self.tensors, self.barrier = shared

    def sum(self, tensor):
        self.tensors[self.rank] = tensor.clone()
        self.barrier.wait(20)
        tensor.copy_(sum(self.tensors))
        self.barrier.wait(20)
        return tensor


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


SESSIONS = [[3], [1, 2, 3, 4, 5], [7, 7, 7], [2, 9, 2, 9, 4, 2], [5, 9], [8, 1], [4]]


@pytest.mark.parametrize("samples", [7, 2, 1])
@pytest.mark.parametrize("fuser", [None, "gated"])
def test_gradient_of_three_is_the_gradient_of_one(samples, fuser):
    """Unequal and empty parts, a session without an intent, losses over pairs of sessions."""
    torch.manual_seed(0)
    recipe = Recipe(9, 6, "sr-gnn")
    intents = None
    if fuser:
        recipe = recipe._replace(
            fuser=fuser, perspectives=("long", "short"), horizons=("long", "short"), text_dim=4
        )
        intents = torch.randn(samples, 2, 4) * (torch.arange(samples) != 3)[:, None, None]
    alone, batch, config = build(recipe), batch_of(SESSIONS[:samples]), TrainConfig()
    models = [deepcopy(alone) for _ in range(3)]
    losses = Step(alone, config, team=ALONE, device=CPU)(ALONE.part(batch), intents)
    shared, found = ([None] * 3, threading.Barrier(3)), [None] * 3

    def work(rank):
        team = Threads(rank, 3, shared)
        part = team.part(batch)
        step = Step(models[rank], config, team=team, device=CPU)
        found[rank] = step(part, None if intents is None else intents[part.batch.index])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(sum(found), losses)
    for model in models:
        torch.testing.assert_close(gradients(model), gradients(alone), rtol=1e-4, atol=1e-6)
        assert all(
            torch.equal(one, two) for one, two in zip(model.parameters(), models[0].parameters(), strict=True)
        )


def test_a_lost_process_is_told_once(monkeypatch, capsys):
    """The first process speaks of it unless the one that failed did, on one line."""
    first, second = (Team(rank, 2, HashStore()) for rank in (0, 1))
    second.store = first.store
    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    for reported in (False, True):
        with pytest.raises(PeerError, match=r"another process .* has ended") as error:
            first.sum(torch.zeros(1))
        assert error.value.reported == reported
        assert second.failed(error.value) == 1  # it lost the other one, too: nothing to add
        assert not capsys.readouterr().err
        assert second.failed(MemoryError("too\nmuch")) == 1
        line = (
            "error: process 1 of 2: MemoryError: too much; run the same command to go on from the last epoch"
        )
        assert capsys.readouterr().err == f"{line}\n"


def lost(tensor):
    raise RuntimeError("Connection closed by peer\nsomewhere in C++")


# From here on, real processes under torchrun.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run that is ready to be trained."""
    base = tmp_path_factory.mktemp("torchrun")
    toy_log(base / "log", sessions=120)
    chosen = {"data.min_item_count": 1, "train.dim": 8, "train.batch_size": 33, "train.learning_rate": 0.01}
    chosen |= {"infer.controls": "[]", "train.device": "cpu", "train.intent_dropout": 0.2, "train.epochs": 12}
    chosen |= {"train.patience": 99, "train.fuser": "gated"}  # has no dropout, which differs by process
    chosen |= {"localize.encoder": f"transformers:{tiny_bert(base / 'bert')}"}
    run = str(base / "run")
    settings = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    begin = ["prepare", run, "--dataset", "csv", "--data", str(base / "log"), "--quiet", "--json"]
    assert _guarded([*begin, *settings]) == 0
    assert _guarded(["localize", run, "--llm", "item-text", "--quiet", "--json"]) == 0
    return base / "run"


@pytest.fixture
def run(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "run"))


FAULTY = """
import os, signal, sys
from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.cli import main

fault, after = sys.argv[1], int(sys.argv[2])
forward, steps = SRGNN.forward, []

def bad(self, items, mask):
    steps.extend([1] if self.training else [])
    encoded = forward(self, items, mask)
    if len(steps) <= after or os.environ["RANK"] != "1":
        return encoded
    if fault == "error":
        raise RuntimeError("no memory left\\non this machine")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return encoded._replace(long=encoded.long * float("nan"))

SRGNN.forward = bad
main(sys.argv[3:])
"""


def torchrun(run, *program, options=()):
    """Two processes; their exit code, standard output, and what llm4sbr said on standard error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *program]
    command += ["train", run, *options]
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=200)
    said = [line for line in done.stderr.splitlines() if re.match(r"[a-z ]+: |plain|llm", line)]
    return done.returncode, done.stdout, said


def faulty(run, fault, after):
    script = run.parent / "faulty.py"
    script.write_text(FAULTY)
    return torchrun(run, script, fault, after)


def errors(said):
    return [line for line in said if line.startswith(("error:", "internal error:"))]


def assert_close(one, two):
    for variant in ("plain", "llm"):
        losses = [[line["loss"] for line in log(out, variant)] for out in (one, two)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
        first, second = weights(one, variant), weights(two, variant)
        for name, tensor in first.items():
            torch.testing.assert_close(second[name], tensor, rtol=0, atol=0.02)  # of weights up to 0.7


@pytest.mark.slow
def test_two_processes_are_one(run, tmp_path):
    alone = Path(shutil.copytree(run, tmp_path / "alone"))
    assert _guarded(["train", str(alone), "--workers", "1", "--quiet"]) == 0
    code, printed, said = torchrun(run, "-m", "llm4sbr")
    assert code == 0
    assert printed.count("plain") == 1  # the first process says it, the other one nothing
    assert "train: 2 processes share every batch, one model after the other" in said
    assert_close(alone / "train", run / "train")
    for variant in ("plain", "llm"):
        facts, expected = (record(one / "train", variant)["facts"] for one in (run, alone))
        assert (facts["processes"], expected["processes"]) == (2, 1)
        assert facts["valid"] == pytest.approx(expected["valid"], rel=0.02)
    stamps = [json.loads((one / "train/stage.json").read_text())["fingerprint"] for one in (run, alone)]
    assert stamps[0] == stamps[1]
    code, _, said = torchrun(run, "-m", "llm4sbr")  # nothing left to do
    assert (code, said[-1]) == (0, "train: fresh")


@pytest.mark.slow
def test_a_loss_that_is_no_number_anywhere_stops_all(run):
    code, _, said = faulty(run, "nan", 20)
    assert code != 0
    (line,) = errors(said)
    epoch, batch = divmod(20, -(-len(load(run / "prepare").samples["train"].key) // 33))
    assert f"the loss of epoch {epoch + 1}, batch {batch + 1} is not a finite number" in line
    kept = load_model(run / "train.tmp/plain/seed-0")
    assert kept.facts["epochs"] == epoch > 0
    assert all(parameter.isfinite().all() for parameter in kept.model.parameters())


@pytest.mark.slow
def test_an_error_anywhere_stops_all_with_one_line(run):
    code, _, said = faulty(run, "error", 4)
    assert code != 0
    (line,) = errors(said)
    assert line.startswith("error: process 1 of 2: RuntimeError: no memory left on this machine; run")


@pytest.mark.slow
def test_killed_together_goes_on_together(run, tmp_path):
    """kill -9 of one process ends the other; the same command goes on where they were."""
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    assert torchrun(whole, "-m", "llm4sbr")[0] == 0
    code, _, said = faulty(run, "kill", 20)
    assert code != 0
    assert len(errors(said)) <= 1  # none, if torchrun was faster
    assert (run / "train.tmp/plain/seed-0/checkpoint.safetensors").exists()
    assert torchrun(run, "-m", "llm4sbr")[0] == 0
    for variant in ("plain", "llm"):
        one, two = weights(whole / "train", variant), weights(run / "train", variant)
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_wrong_setting_is_one_line(run):
    code, _, said = torchrun(run, "-m", "llm4sbr", options=["--set", "train.foo=1"])
    assert code != 0
    assert len(errors(said)) == 1
