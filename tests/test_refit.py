"""The model that is served may be trained once more on all sessions, and is never measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from llm4sbr import store
from llm4sbr.cli import cli
from llm4sbr.data.batches import sample_keys
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.data.whole import whole
from llm4sbr.errors import InputError, StoreError
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.export import Export, export
from llm4sbr.stages.refit import refit
from llm4sbr.testing.toy import toy_catalogue
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.testing.training import equal, log, record, settings, trained, weights
from llm4sbr.training.trained import served

QUIET = Progress(quiet=True)
CONFIG = settings(controls=())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = toy_run(tmp_path / "run", sources=("llm",))
    trained(run, CONFIG)
    return run


def test_all_sessions_by_hand():
    items = torch.tensor([1, 2, 3, 1, 3, 2, 3, 4, 1])
    sessions = Sessions(items, torch.tensor([0, 3, 5, 9]))
    train = Sessions(items[:3], torch.tensor([0, 3]))
    one = Samples(torch.tensor([0]), torch.tensor([2]), torch.tensor([7]))
    parts = {"train": one, "valid": one, "test": one}

    def found(**rules: object) -> tuple[Prepared, list[tuple[int, int]]]:
        every = whole(Prepared(toy_catalogue(4), sessions, train, parts, {"rules": rules}))
        samples = every.samples["train"]
        return every, list(zip(samples.start.tolist(), samples.end.tolist(), strict=True))

    every, spans = found(train_prefixes="all", max_length=2)
    assert spans == [(0, 1), (0, 2), (3, 4), (5, 6), (5, 7), (6, 8)]
    assert every.train is sessions
    assert [len(every.samples[name].key) for name in ("valid", "test")] == [0, 0]
    samples = every.samples["train"]
    assert torch.equal(samples.key, sample_keys(sessions, samples.start, samples.end))
    assert found(train_prefixes="last")[1] == [(0, 2), (3, 4), (5, 8)]


def test_trained_as_long_on_everything_and_labelled(run):
    before = {path: path.read_bytes() for path in sorted((run / "train").rglob("*")) if path.is_file()}
    (run / "evaluate").mkdir()
    evaluate(run, run / "evaluate", CONFIG, QUIET)
    found = refit(run, CONFIG, QUIET)
    assert found == store.read_json(run / "final/llm/seed-0/model.json")
    tested, facts = record(run / "train", "llm"), found["facts"]
    prepared = load(run / "prepare")
    assert facts["samples"] == len(prepared.sessions.items) - (len(prepared.sessions.offsets) - 1)
    assert facts["epochs"] == tested["facts"]["best_epoch"]
    assert (facts["valid"], facts["selected_on"]) == ({}, "none")
    chosen = facts["chosen"]
    assert chosen["valid"] == tested["facts"]["valid"]
    assert chosen["weights"] == tested["weights"] != found["weights"]
    (row,) = [one for one in store.read_json(run / "evaluate/metrics.json")["rows"] if one["name"] == "llm"]
    assert chosen["test"]["MRR@20"] == row["metrics"]["MRR@20"]["mean"]
    assert {path: path.read_bytes() for path in before} == before

    ranks = store.read_tensors(run / "evaluate/ranks.safetensors")
    evaluate(run, run / "evaluate", CONFIG, QUIET)
    again = store.read_tensors(run / "evaluate/ranks.safetensors")
    assert equal(ranks, again)  # the refit has no part in the table


def test_it_is_served_by_default_until_the_run_is_trained_anew(run):
    assert not served(run).refitted
    with pytest.raises(InputError, match=r"is not there; llm4sbr refit"):
        served(run, refitted=True)
    refit(run, CONFIG, QUIET)
    assert served(run).refitted
    assert not served(run, refitted=False).refitted
    assert not served(run, variant="plain").refitted
    one, two = (Recommender.load(run, refitted=which) for which in (None, False))
    final = weights(run / "final", "llm")
    assert equal({name: value for name, value in one.model.state_dict().items()}, final)
    assert not equal({name: value for name, value in two.model.state_dict().items()}, final)
    for path in (run / "train/llm/seed-0").iterdir():
        path.unlink()
    trained(run, settings(controls=(), epochs=2, learning_rate=0.02))
    assert not served(run).refitted
    with pytest.raises(InputError, match="trained again since"):
        served(run, refitted=True)


def test_it_is_made_once(run):
    told: list[str] = []
    progress = Progress(quiet=True)
    progress.note = told.append  # type: ignore[method-assign]
    refit(run, CONFIG, progress, variant="plain")
    written = (run / "final/plain/seed-0/model.json").stat().st_mtime_ns
    refit(run, CONFIG, progress, variant="plain")
    assert told[-1].startswith("refit: fresh")
    assert (run / "final/plain/seed-0/model.json").stat().st_mtime_ns == written
    refit(run, CONFIG, progress, variant="plain", force=True)
    assert (run / "final/plain/seed-0/model.json").stat().st_mtime_ns != written


@pytest.mark.slow
def test_its_export_has_the_figures_of_the_tested_model_only(run):
    refit(run, CONFIG, QUIET)
    one = export(run, Export(k=5), QUIET)["onnx"]
    assert one["refitted"] is True
    assert "metrics" not in one["verified"]
    assert one["chosen"]["valid"] == record(run / "train", "llm")["facts"]["valid"]
    other = export(run, Export(k=5, refitted=False), QUIET)["onnx"]
    assert other["refitted"] is False
    assert "HR@5" in other["verified"]["metrics"]


def test_nothing_trained_is_one_line(tmp_path):
    with pytest.raises(StoreError, match="no trained model; run llm4sbr train"):
        refit(toy_run(tmp_path / "run"), CONFIG, QUIET)
    found = CliRunner().invoke(cli, ["refit", str(tmp_path / "none")])
    assert isinstance(found.exception, StoreError)  # one line and exit code 2, as everywhere
    assert not (tmp_path / "none").exists()


def test_the_rates_are_those_that_led_to_the_best(tmp_path):
    """Epochs whose weights were given up have no part in a refit."""
    run = toy_run(tmp_path / "run", sources=("llm",))
    config = settings(
        controls=(), epochs=9, patience=4, learning_rate=1.0, decay=0.5, neighbours=0, counted=()
    )
    trained(run, config)
    best, rates = -1.0, []
    lines = log(run / "train", "llm")
    facts = record(run / "train", "llm")["facts"]
    for line in lines[: facts["best_epoch"]]:
        if line["valid"]["MRR@20"] > best:
            best = line["valid"]["MRR@20"]
            rates.append(line["learning_rate"])
    assert facts["rates"] == rates
    refit(run, config, QUIET, variant="llm")
    assert [line["learning_rate"] for line in log(run / "final", "llm")] == rates
