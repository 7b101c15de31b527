"""What predicted intents mean, from the exported model alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llm4sbr.cli import _guarded
from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.progress import Progress
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.predicted import TITLES, Predicted
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.live_server import live_server
from llm4sbr.testing.toy import toy_catalogue
from llm4sbr.testing.toy_export import TEXT, titles, toy_export
from llm4sbr.testing.toy_run import WIDTH, toy_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy_export(tmp_path / "onnx", items=20, predictor=True)


def means(explained) -> dict[str, list[int]]:
    return {one.perspective: [item.id for item in one.items] for one in explained.perspectives}


def test_intents_are_told_without_scoring_an_item(folder):
    artefact = Artefact.open(folder, threads=1)
    items = np.array([[3, 9], [20, 0]])
    told = artefact.predict(items, items > 0)
    assert (told.shape, told.dtype) == ((2, 2, TEXT), np.float32)
    # the toy model means the next item, and the last one itself
    np.testing.assert_allclose(told[0], titles(20)[[9, 8]])
    np.testing.assert_allclose(told[1], titles(20)[[0, 19]])
    with pytest.raises(InputError, match="99 is not a catalogue id"):
        artefact.predict(np.array([[99]]), np.ones((1, 1), bool))


def test_what_is_predicted_is_named(folder):
    found = ExportedRecommender.load(folder).recommend("i03,i09", k=2).intents
    assert found.source == "predictor"
    # on the circle of titles the five nearest are the item and two neighbours on each side
    assert [items[0] for items in means(found).values()] == [10, 9]
    assert [set(items) for items in means(found).values()] == [{8, 9, 10, 11, 12}, {7, 8, 9, 10, 11}]
    assert found.perspectives[0].items[0].weight == pytest.approx(1, abs=0.01)
    assert found.perspectives[0].items[1].weight == pytest.approx(np.cos(2 * np.pi / 20), abs=0.01)


def test_the_server_and_the_command_name_it_too(folder, capsys):
    with live_server(folder, "--watch", "0") as server:
        silent = server.ask("/recommend", {"session": [9]}).json["intents"]
        told = server.ask("/recommend", {"session": [9], "explain": True}).json["intents"]
        wrong = server.ask("/recommend", {"session": [9], "explain": 1})
    assert (silent["source"], silent["perspectives"]) == ("predictor", [])
    assert [one["items"][0]["id"] for one in told["perspectives"]] == [10, 9]
    assert (wrong.status, wrong.json["error"]) == (400, "explain: expected true or false")
    assert _guarded(["recommend", str(folder), "--session", "i09"]) == 0
    shown = capsys.readouterr().out
    catalogue = toy_catalogue(20)
    assert all(f"{catalogue.titles[item - 1]} " in shown.split("Predicted intents")[1] for item in (9, 10))


def test_an_artefact_without_titles_names_nothing(folder):
    artefact = Artefact.open(folder, threads=1)
    del artefact.record["files"][TITLES]
    assert Predicted(artefact, folder).explain([3]).perspectives == []


@pytest.mark.parametrize("damage", ["shorter", "other", "text"])
def test_titles_that_are_not_those_exported_are_refused(folder, damage):
    artefact = Artefact.open(folder, threads=1)
    path = folder / TITLES
    if damage == "shorter":  # while the model is in use
        predicted = Predicted(artefact, folder)
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(StoreError, match="shorter than it was"):
            predicted.explain([3])
        return
    path.write_bytes(b"not an array") if damage == "text" else np.save(path, np.zeros((3, TEXT), np.int8))
    with pytest.raises(StoreError, match=r"titles\.npy: not the file that was exported"):
        Artefact.open(folder)
    with pytest.raises(StoreError, match=r"expected int8 \(20, 4\)"):
        Predicted(artefact, folder)


def test_the_artefact_means_what_the_run_does(tmp_path):
    run = toy_run(tmp_path / "run", items=20)
    catalogue = load(run / "prepare").catalogue
    both = ("long", "short")
    fused = {"fuser": "gated", "perspectives": both, "horizons": both}
    recipe = Recipe(catalogue.size, 8, "stamp", **fused, text_dim=WIDTH, predictor=True)
    torch.manual_seed(0)
    folder = run / "train/llm/seed-0"
    save_model(folder, build(recipe), recipe=recipe, catalogue=catalogue_hash(catalogue), facts={})
    record = export(run, Export(k=4, intents="predictor"), Progress(quiet=True))["onnx-predictor"]
    assert record["outputs"]["intents"] == {"dtype": "float32", "shape": ["batch", 2, WIDTH]}
    exported = ExportedRecommender.load(run / "export" / "onnx-predictor")
    trained = Recommender.load(run)
    for session in ([3, 4], [17], [1, 2, 3]):
        found = exported.recommend(session, k=4).intents
        expected = trained.recommend(session, k=4, source="predictor").intents
        assert [one.perspective for one in found.perspectives] == ["long", "short"]
        for one, other in zip(found.perspectives, expected.perspectives, strict=True):
            assert one.items[0].id == other.items[0].id
            weights = [[item.weight for item in intent.items] for intent in (one, other)]
            np.testing.assert_allclose(*weights, atol=0.01)  # 8 bits
