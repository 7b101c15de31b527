"""What is served is what is best on validation, a baseline included."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from llm4sbr import registry, stamps, store
from llm4sbr.cli import _guarded
from llm4sbr.config import build
from llm4sbr.data.prepared import load
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.ranking import rank_all
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.progress import Progress
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.export import Export, export
from llm4sbr.stages.refit import refit
from llm4sbr.stages.train import train
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.training.trained import baselines_of, better_baseline, reason, trained_models, validated

QUIET = Progress(quiet=True)
SMALL = {"dim": 8, "epochs": 1, "learning_rate": 1e-9, "workers": 1, "device": "cpu", "neighbours": 0}
SMALL |= {"counted": ()}  # what is counted after training would be as good as a baseline
SMALL |= {"baselines": ["popularity", "stan", "slist", "item-knn"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated toy run of which nothing was learned by training, so that counting is better."""
    run = toy_run(tmp_path_factory.mktemp("served") / "run", sources=("llm",))
    config = build({"infer": {"llm": "item-text", "controls": []}, "train": SMALL, "evaluate": {"k": [5]}})
    stamp = stamps.Stamp("prepare", {})
    files, content = stamps.files_of(run / "prepare")
    stamps.write_stamp(run / "prepare", stamp._replace(content=content, files=files))
    store.write_text(run / "config.toml", "")
    for name, stage in (("train", train), ("evaluate", evaluate)):
        (run / name).mkdir()
        parts = {"output of prepare": content}
        attempt = stamps.Attempt(run / name, stamps.Stamp(name, parts))
        stage(run, run / name, config, QUIET, attempt)
    return run


def test_validation_of_baselines_is_ranked_as_that_of_models(run: Path) -> None:
    prepared = load(run / "prepare")
    valid = prepared.samples["valid"]
    found = baselines_of(run)
    assert {name: one.linear for name, one in found.items()} == {
        "popularity": False,
        "stan": False,
        "slist": True,
        "item-knn": True,
    }
    baseline = registry.create("baselines", "slist", num_items=prepared.catalogue.size)
    baseline.fit(prepared.train)
    ranks = rank_all(
        lambda batch: baseline.score(batch.items, batch.mask),
        prepared.sessions,
        valid,
        num_items=prepared.catalogue.size,
        batch_size=7,
        repeats=prepared.repeats,
    )
    assert found["slist"].valid == pytest.approx(metrics.summary(ranks, [20])["MRR@20"])


def test_the_best_linear_baseline_is_recommended_from_and_exported(run: Path, capsys) -> None:
    known = {name: one.valid for name, one in baselines_of(run).items()}
    own = max(validated(trained_models(run)).values())
    best = max(("slist", "item-knn"), key=lambda name: known[name])
    assert known[best] > own
    assert better_baseline(run) == best
    recommender = Recommender.load(run)
    assert recommender.trained.variant == best
    told = reason(run, recommender.trained)
    assert told.startswith(f"model {best}")
    assert f"{known[best]:.2%}" in told
    export(run, Export(k=5), QUIET)
    items = torch.tensor([[3, 4]])
    ids, _ = Artefact.open(run / "export" / "onnx").top(items.numpy(), (items > 0).numpy())
    assert ids[0].tolist() == [item.id for item in recommender.recommend([3, 4], k=5).items]
    session = ",".join(recommender.catalogue.keys[2:4])
    assert _guarded(["recommend", str(run), "--session", session]) == 0
    assert told in capsys.readouterr().err


def test_a_model_that_is_asked_for_is_taken(run: Path) -> None:
    named = Recommender.load(run, variant="llm").trained
    assert named.variant == "llm"
    assert " does better: MRR@20 on validation " in reason(run, named)
    assert Recommender.load(run, seed=0).trained.variant in ("llm", "plain")
    assert ReferenceModel.of(run, intents="none").trained.variant == "llm"  # a baseline has no intents


@pytest.fixture
def changed(run: Path, tmp_path: Path):
    """The run with other validation metrics of its baselines."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))

    def change(**values: float) -> Path:
        for name, value in values.items():
            path = copy / "evaluate" / "baselines" / name.replace("_", "-") / "about.json"
            about = json.loads(path.read_text())
            store.write_json(path, about | {"valid": {"MRR@20": value}})
            stamp = stamps.read_stamp(path.parent)
            files, content = stamps.files_of(path.parent)
            stamps.write_stamp(path.parent, stamp._replace(content=content, files=files))
        return copy

    return change


def test_a_better_one_that_cannot_be_served_is_named(changed) -> None:
    run = changed(stan=0.99, slist=0.9, item_knn=0.8)
    trained = Recommender.load(run).trained
    assert trained.variant == "slist"
    assert reason(run, trained) == (
        "model slist, though stan does better: MRR@20 on validation 90.00%, stan 99.00%; "
        "stan keeps no weights per item, so it cannot be served"
    )


def test_a_worse_one_is_not_taken(changed) -> None:
    run = changed(stan=0.0, slist=0.0, item_knn=0.0, popularity=0.0)
    assert Recommender.load(run).trained.variant in ("llm", "plain")


def test_a_refit_says_that_it_is_not_what_is_served(changed) -> None:
    said = StringIO()
    run = changed(slist=1.0)
    config = build({"infer": {"llm": "item-text", "controls": []}, "train": SMALL})
    refit(run, config, Progress(console=Console(file=said, width=300)))
    assert (
        "refit: recommend and export take slist, which is better on validation; --variant " in said.getvalue()
    )
    assert not Recommender.load(run).trained.refitted
    assert Recommender.load(run, refitted=True).trained.refitted  # asks for a trained model
    run = changed(slist=0.0, item_knn=0.0)
    said.truncate(0)
    refit(run, config, Progress(console=Console(file=said, width=300)))
    assert "recommend and export take" not in said.getvalue()
    assert Recommender.load(run).trained.refitted


def test_of_other_data_nothing_is_known(changed) -> None:
    run = changed(slist=0.9)
    stamp = stamps.read_stamp(run / "prepare")
    stamps.write_stamp(run / "prepare", stamp._replace(content="other"))
    assert baselines_of(run) == {}
    assert better_baseline(run) is None
