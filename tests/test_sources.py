"""The four sources of intents side by side: arithmetic, what each may see, and how it is shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm4sbr.config import Config, build
from llm4sbr.data.prepared import load
from llm4sbr.evaluation.live_sources import SourceRanks, compare
from llm4sbr.evaluation.ranking import SampleIntents, rank_all, scorer
from llm4sbr.fusion.saved import load_model
from llm4sbr.intents import IntentStore
from llm4sbr.intents.nearest import NearestSession
from llm4sbr.progress import Progress
from llm4sbr.report.sources import sources_table
from llm4sbr.report.terminal.layout import drawn, show
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.train import train
from llm4sbr.testing.toy_run import toy_run

CPU = torch.device("cpu")


def ranks(first: int, share: float) -> torch.Tensor:
    """Of 400 test samples the first `share` at rank 1, the others behind the list; `first` leads them."""
    hit = torch.arange(400) < 400 * share
    return torch.where(hit, first, 99)


def test_share_by_hand() -> None:
    # HR@5: plain 0.2, none 0.3, cache 0.7, nearest 0.45, so nearest keeps (0.45 - 0.2) / (0.7 - 0.2) = 50%
    # over plain and (0.45 - 0.3) / (0.7 - 0.3) = 37.5% over none. MRR@5 is HR@5, as all hits are at rank 1.
    sources = [
        SourceRanks("cache", [ranks(1, 0.7)], 1.0),
        SourceRanks("nearest", [ranks(1, 0.45)], 0.8),
        SourceRanks("none", [ranks(1, 0.3)], 0.0),
    ]
    found = {one["name"]: one for one in compare(sources, [ranks(1, 0.2)], [5], groups=torch.arange(400))}
    assert found["nearest"]["covered"] == 0.8
    assert found["nearest"]["metrics"]["HR@5"]["mean"] == pytest.approx(0.45)
    kept = {name: one["kept"]["plain"]["HR@5"]["share"] for name, one in found.items()}
    assert kept == pytest.approx({"cache": 1.0, "nearest": 0.5, "none": 0.2})
    over_none = {name: one["kept"]["none"]["MRR@5"]["share"] for name, one in found.items()}
    assert over_none == pytest.approx({"cache": 1.0, "nearest": 0.375, "none": 0.0})
    nearest = found["nearest"]["kept"]["plain"]["HR@5"]
    # the ratio's standard error, of 200 sessions that gain with cache and 100 of them with nearest, is
    # about sqrt(0.5 * 0.5 / 200) = 3.5 points
    assert nearest["low"] == pytest.approx(0.5 - 1.96 * 0.0354, abs=0.01)
    assert nearest["high"] == pytest.approx(0.5 + 1.96 * 0.0354, abs=0.01)
    json.dumps(list(found.values()))


@pytest.mark.parametrize("share", [0.2, 0.1, 0.205])
def test_no_gain_no_share(share: float) -> None:
    sources = [SourceRanks("cache", [ranks(1, share)], 1.0), SourceRanks("none", [ranks(1, 0.2)], 0.0)]
    found = compare(sources, [ranks(1, 0.2)], [5], groups=torch.arange(400))
    assert [one["kept"]["plain"]["HR@5"] for one in found] == [None, None]
    shown = printed({"k": [5], "sources": found})
    assert "no gain of the LLM's own answers to keep" in shown
    assert "nan" not in shown.lower()


def test_without_the_plain_backbone() -> None:
    found = compare([SourceRanks("cache", [ranks(1, 0.5)], 1.0)], None, [5], groups=torch.arange(400))
    assert found[0]["kept"] == {}
    assert "own answers" in printed({"k": [5], "sources": found})


def settings() -> Config:
    train = {
        "dim": 8,
        "epochs": 3,
        "learning_rate": 0.01,
        "workers": 1,
        "device": "cpu",
        "fuser": "catalogue",
    }
    return build({"infer": {"llm": "embedded"}, "train": train, "evaluate": {"k": [1, 5]}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = toy_run(tmp_path_factory.mktemp("runs") / "run", sources=("llm",))
    for name, stage in (("train", train), ("evaluate", evaluate)):
        (run / name).mkdir()
        stage(run, run / name, settings(), Progress(quiet=True))
    return run


def metrics_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluate/metrics.json").read_text())
    return found


def test_a_whole_run(finished: Path) -> None:
    found = metrics_of(finished)
    sources = {one["name"]: one for one in found["sources"]}
    assert list(sources) == ["cache", "nearest", "predictor", "none"]
    rows = {row["name"]: row for row in found["rows"]}
    assert sources["cache"]["metrics"] == rows["llm"]["metrics"]
    assert sources["cache"]["covered"] == found["coverage"]
    assert (sources["predictor"]["covered"], sources["none"]["covered"]) == (1.0, 0.0)
    shown = printed(found)
    assert "predicted by the model" in shown
    assert f"{100 * sources['predictor']['metrics']['HR@5']['mean']:.2f}" in shown


def test_each_source_is_what_it_says(finished: Path) -> None:
    sources = {one["name"]: one["metrics"]["MRR@5"]["mean"] for one in metrics_of(finished)["sources"]}
    prepared = load(finished / "prepare")
    test, model = prepared.samples["test"], load_model(finished / "train/llm/seed-0").model
    intents = IntentStore.open(finished / "localize/llm")
    near = NearestSession(intents, prepared.sessions, prepared.samples["train"])
    rows = [near.find(prepared.prefix(test, index)) for index in range(len(test.key))]
    ways = {
        "nearest": scorer(model, SampleIntents(intents, torch.tensor(rows)), CPU),
        "predictor": lambda batch: model(batch.items, batch.mask, predict=True),
        "none": lambda batch: model(batch.items, batch.mask),
    }
    for name, score in ways.items():
        found = rank_all(score, prepared.sessions, test, num_items=20, batch_size=7, repeats=False)
        expected = torch.where(found <= 5, 1 / found.double(), 0.0).mean().item()
        assert sources[name] == pytest.approx(expected), name


def test_the_nearest_is_a_training_session(finished: Path) -> None:
    prepared = load(finished / "prepare")
    intents = IntentStore.open(finished / "localize/llm")
    train_keys = set(prepared.samples["train"].key.tolist())
    near = NearestSession(intents, prepared.sessions, prepared.samples["train"])
    test = prepared.samples["test"]
    rows = [near.find(prepared.prefix(test, index)) for index in range(len(test.key))]
    found = [int(intents.keys[row]) for row in rows if row >= 0]
    assert found
    assert set(found) <= train_keys


def test_another_runs_table_has_no_sources(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run", sources=())
    for name, stage in (("train", train), ("evaluate", evaluate)):
        (run / name).mkdir()
        stage(run, run / name, settings(), Progress(quiet=True))
    found = metrics_of(run)
    assert "sources" not in found
    assert sources_table(found) is None


def printed(metrics: dict[str, Any]) -> str:
    text = io.StringIO()
    show(*drawn(sources_table(metrics), caption=True), file=text)
    return " ".join(text.getvalue().split())
