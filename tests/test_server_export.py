"""A run, its export by the command line, and a server of it: the three agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from llm4sbr.cli import cli
from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.serving.recommend import Recommender
from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_run import WIDTH, toy_run

pytestmark = pytest.mark.slow  # the export itself; test_server has the rest with a graph written by hand

MODEL = "/v2/models/llm4sbr/infer"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = toy_run(tmp_path_factory.mktemp("runs") / "run", sources=["llm"])
    catalogue = load(run / "prepare").catalogue
    fused = {"fuser": "gated", "perspectives": ("long", "short"), "horizons": ("long", "short")}
    recipe = Recipe(catalogue.size, 8, "sr-gnn")._replace(**fused, text_dim=WIDTH, predictor=True)
    torch.manual_seed(0)
    facts = {"seed": 0, "valid": {"MRR@20": 0.5}}
    folder = run / "train" / "llm" / "seed-0"
    save_model(folder, build(recipe), recipe=recipe, catalogue=catalogue_hash(catalogue), facts=facts)
    command = ["export", str(run), "-k", "10", "--intents", "input", "--quiet"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return run


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[LiveServer]:
    with live_server(run, "--watch", "0") as running:
        yield running


def test_the_server_of_a_run_answers_as_the_trained_model(run, server):
    trained = Recommender.load(run)
    prepared = trained.prepared
    seen = set()
    for row in range(0, len(prepared.samples["train"].key), 9):
        session = prepared.prefix(prepared.samples["train"], row)
        expected = trained.recommend(session, k=5)
        found = server.ask("/recommend", {"session": session, "k": 5}).json
        assert [one["id"] for one in found["items"]] == [one.id for one in expected.items]
        scores = [one["score"] for one in found["items"]]
        np.testing.assert_allclose(scores, [one.score for one in expected.items], atol=1e-5)
        assert found["intents"] == expected.as_dict()["intents"]
        assert (found["variant"], found["seed"]) == ("llm", 0)
        seen.add(found["intents"]["source"])
    assert seen == {"cache", "predictor"}


def test_the_export_alone_answers_without_intents(run, tmp_path):
    folder = (run / "export" / "onnx-input").rename(tmp_path / "elsewhere")
    try:
        expected = Recommender.load(run).recommend([3, 4, 5], k=5, source="none")
        with live_server(folder) as server:
            found = server.ask("/recommend", {"session": [3, 4, 5], "k": 5}).json
        assert [one["id"] for one in found["items"]] == [one.id for one in expected.items]
        assert found["intents"]["source"] == "none"
    finally:
        folder.rename(run / "export" / "onnx-input")


def test_intents_of_a_request_are_those_of_the_model(run, server):
    trained = Recommender.load(run)
    vectors = np.random.default_rng(0).normal(size=(1, 2, WIDTH)).astype(np.float32)
    items = {"name": "items", "datatype": "INT64", "shape": [1, 2], "data": [4, 9]}
    intents = {
        "name": "intents",
        "datatype": "FP32",
        "shape": [1, 2, WIDTH],
        "data": vectors.ravel().tolist(),
    }
    seen = {"name": "exclude_seen", "datatype": "BOOL", "shape": [1, 1], "data": [False]}
    ids, scores = server.ask(MODEL, {"inputs": [items, intents, seen]}).json["outputs"]
    given = torch.tensor([[4, 9]])
    with torch.no_grad():
        expected = trained.model(given, given > 0, torch.from_numpy(vectors))[0].topk(10)
    assert ids["data"] == (expected.indices + 1).tolist()
    np.testing.assert_allclose(scores["data"], expected.values, atol=1e-5)
