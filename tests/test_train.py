"""Stage `train` on a toy run: what is trained, from what, and models side by side."""

from __future__ import annotations

import json
import os

import polars as pl
import pytest
import torch

from llm4sbr.data.prepared import load, save
from llm4sbr.errors import StoreError, TrainingError
from llm4sbr.stages.train import variants
from llm4sbr.system import processes
from llm4sbr.testing.toy_run import WIDTH, toy_run
from llm4sbr.testing.training import equal, record, settings, trained, weights


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads gain nothing on toys, and add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_every_variant_and_seed(tmp_path):
    run = toy_run(tmp_path / "run")
    out = trained(run, settings(seeds=2, seed=5))
    found = sorted(path.relative_to(out).as_posix() for path in out.glob("*/seed-*"))
    names = ("item-item", "item-text", "llm", "none", "plain", "shuffled")
    assert found == [f"{name}/seed-{seed}" for name in names for seed in (5, 6)]
    for folder in out.glob("*/seed-*"):
        assert sorted(path.name for path in folder.iterdir()) == [
            "log.jsonl",
            "model.json",
            "model.safetensors",
            "moments.safetensors",
            "stage.json",
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
    assert facts["counted"]["alone"] == pytest.approx(best["valid"])  # without what is counted


def test_which_variants(tmp_path):
    run = toy_run(tmp_path / "run", sources=("shuffled", "llm"))
    assert variants(run, settings()) == ["plain", "item-item", "llm", "shuffled", "none"]
    assert variants(run, settings(controls=("shuffled",), plain=False)) == ["llm", "shuffled"]
    bare = toy_run(tmp_path / "bare", sources=())
    assert variants(bare, settings(plain=False)) == ["plain", "item-item"]
    assert variants(bare, settings(neighbours=0, counted=())) == ["plain"]


@pytest.mark.slow
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


def run_parallel(work, jobs=(1, 2, 3)):
    processes.run(work, jobs, workers=2, progress=lambda *_: None, done=lambda *_: None)


def test_jobs_in_fresh_processes(tmp_path, monkeypatch):
    (tmp_path / "fresh_work.py").write_text(
        "import os, signal, sys\nbefore = []\n"
        "def where(job, report):\n    report(job, 'note')\n    before.append(job)\n"
        "    return os.getpid(), before, 'torch' in sys.modules\n"
        "def die(job, report):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import fresh_work

    found, told = {}, []
    processes.run(
        fresh_work.where,
        [5, 6],
        workers=1,
        fresh=True,
        progress=lambda *words: told.append(words),
        done=found.__setitem__,
    )
    assert [before for _, before, _ in found.values()] == [[5], [6]]
    assert len({os.getpid(), *(number for number, *_ in found.values())}) == 3
    assert not any(loaded for *_, loaded in found.values())  # nothing that the job itself has not imported
    assert told == [(0, 5, "note"), (1, 6, "note")]
    with pytest.raises(TrainingError, match=r"a worker process died .SIGKILL"):
        processes.run(
            fresh_work.die, [1], workers=1, fresh=True, progress=lambda *_: None, done=lambda *_: None
        )


@pytest.mark.slow
def test_dead_worker_is_one_line(tmp_path, monkeypatch, capfd):
    (tmp_path / "work_functions.py").write_text(
        "import os, signal\nfrom llm4sbr.errors import TrainingError\n"
        "def die(job, report):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "def stumble(job, report):\n    raise KeyError('colour')\n"
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
    with pytest.raises(RuntimeError, match=r"^KeyError: 'colour'") as stumbled:
        run_parallel(work_functions.stumble)
    assert str(stumbled.value) == "KeyError: 'colour'"
    assert "work_functions.py" in stumbled.value.__notes__[0]
    assert "Traceback" not in capfd.readouterr().err
    results, notes = {}, []
    processes.run(
        work_functions.double,
        [5, 6, 7],
        workers=2,
        progress=lambda *said: notes.append(said),
        done=lambda index, result: results.update({index: result}),
    )
    assert results == {0: 10, 1: 12, 2: 14}
    assert sorted(notes) == [(0, 1, "note"), (1, 1, "note"), (2, 1, "note")]


def test_intents_of_another_catalogue(tmp_path):
    other = toy_run(tmp_path / "other", items=19)
    run = toy_run(tmp_path / "run", sources=())
    (other / "localize").rename(run / "localize")
    with pytest.raises(StoreError, match=r"another catalogue .*run llm4sbr localize .*run --force"):
        trained(run, settings(plain=False))


@pytest.mark.parametrize("name", ["intents-00000", "keys-00000"])
def test_a_flipped_bit_is_never_trained_on(tmp_path, name):
    run = toy_run(tmp_path / "run")
    path = run / "localize/shuffled" / f"{name}.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-3] ^= 1
    path.write_bytes(changed)
    with pytest.raises(StoreError, match=rf"{name}.*changed since it was written .*run --force") as caught:
        trained(run, settings(plain=False))
    assert "\n" not in str(caught.value)
    assert not list((run / "train").rglob("model.*"))


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
