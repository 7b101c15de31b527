"""Filtered lists of every kind of model are those of the scores of the items that pass."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llm4sbr.serving import answering
from llm4sbr.serving.artefact import Artefact, open_session
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.toy_export import toy_export
from llm4sbr.testing.toy_run import toy_run

sys.path.insert(0, str(Path(__file__).parent))
from toy_exports import QUIET, add_model

K = 5
SESSIONS = [[3], [5, 5, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9], [20, 19]]
ASKED = (
    {"where": "category in Lamp, Rug, Chair"},
    {"where": "in_stock"},
    {"where": "not in_stock; category != Lamp"},
    {"only": ["i04", "i05", "i06", "i07"], "without": [5]},
    {"where": "category = Vase; not category = Vase"},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = toy_run(tmp_path_factory.mktemp("filters") / "run", items=20)
    add_model(run, "plain")
    stock = run.parent / "stock.txt"
    stock.write_text("".join(f"i{id:02}\n" for id in range(1, 15)))
    wanted = {"k": K, "variant": "plain", "filters": {"in_stock": stock}}
    export(run, Export(precisions=("int8",), **wanted), QUIET)
    return run


@pytest.fixture(scope="module")
def trained(run: Path) -> Recommender:
    found = Recommender.load(run, variant="plain")
    assert found.filters.define("in_stock", run.parent / "stock.txt") == 0
    return found


def expected(
    trained: Recommender, session: list[int], asked: dict[str, object], *, exclude: bool
) -> list[int]:
    """From all scores, item by item."""
    items = torch.tensor([session[-trained.longest :]])
    with torch.no_grad():
        scores = trained.model(items, items > 0)[0].tolist()
    catalogue, stock = trained.catalogue, set(range(1, 15))
    kinds = catalogue.attributes["category"]
    passes = {
        "category in Lamp, Rug, Chair": lambda id: kinds[id - 1] in ("Lamp", "Rug", "Chair"),
        "in_stock": lambda id: id in stock,
        "not in_stock; category != Lamp": lambda id: id not in stock and kinds[id - 1] != "Lamp",
        "category = Vase; not category = Vase": lambda id: False,
        None: lambda id: id in (4, 6, 7),
    }[asked.get("where")]
    left = [id for id in range(1, 21) if passes(id) and not (exclude and id in session)]
    return sorted(left, key=lambda id: -scores[id - 1])[:K]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("exclude", [True, False])
def test_a_trained_model(trained, asked, exclude):
    whole = trained.recommend_all(SESSIONS, k=K, exclude_seen=exclude, **asked)
    for session, one in zip(SESSIONS, whole, strict=True):
        found = trained.recommend(session, k=K, exclude_seen=exclude, **asked)
        wanted = expected(trained, session, asked, exclude=exclude)
        assert [item.id for item in found.items] == [item.id for item in one.items] == wanted
        assert found.passing == one.passing
        if not found.passing:
            assert "no item passes" in found.notes[0]


@pytest.mark.parametrize("asked", ASKED)
def test_an_export_with_an_8_bit_table(run, trained, asked):
    exported = ExportedRecommender.load(run / "export/onnx-plain-int8")
    lists = exported.recommend_all(SESSIONS, exclude_seen=False, **asked)
    for session, one in zip(SESSIONS, lists, strict=True):
        wanted = expected(trained, session, asked, exclude=False)
        assert [item.id for item in one.items] == wanted
        again = exported.recommend(session, exclude_seen=False, **asked)
        assert [item.id for item in again.items] == wanted
    assert len({one.passing for one in lists}) == 1


def test_a_batch_of_different_filters(run):
    artefact = Artefact.open(run / "export/onnx-plain-int8")
    items = np.array([[3, 4], [3, 4], [3, 4]])
    allowed = np.zeros((3, 20), np.float32)
    allowed[1, :10] = allowed[2] = -np.inf
    allowed[2, [6, 7]] = 0
    ids, scores = artefact.run(items, items > 0, np.ones((3, 1), np.bool_), allowed=allowed)
    alone, _ = artefact.run(items[:1], items[:1] > 0, np.ones((1, 1), np.bool_))
    assert ids[0].tolist() == alone[0].tolist()
    assert ids[1].min() > 10
    assert (sorted(ids[2, :2]), ids[2, 2:].tolist()) == ([7, 8], [0, 0, 0])
    assert (scores[2, 2:] == -np.inf).all()


def test_a_graph_needs_no_filter_as_input(run):
    session = open_session(run / "export/onnx-plain-int8/model.onnx")
    assert [one.name for one in session.get_inputs()] == ["items", "mask", "exclude_seen"]
    assert [one.name for one in session.get_overridable_initializers()] == ["allowed"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["item-knn", "slist"])
def test_a_linear_baseline(run, variant):
    export(run, Export(k=K, variant=variant), QUIET)
    trained = Recommender.load(run, variant=variant)
    exported = ExportedRecommender.load(run / f"export/onnx-{variant}")
    for session in SESSIONS:
        asked = {"k": K, "where": "category in Lamp, Rug, Chair"}
        one, other = (model.recommend(session, **asked).items for model in (trained, exported))
        kinds = trained.catalogue.attributes["category"]
        passing = [id for id in range(1, 21) if kinds[id - 1] in ("Lamp", "Rug", "Chair")]
        assert len(one) == min(K, len({*passing} - {*session}))  # although only neighbours have scores
        assert {kinds[item.id - 1] for item in other} <= {"Lamp", "Rug", "Chair"}
        np.testing.assert_allclose([item.score for item in other], [item.score for item in one], atol=1e-5)


def test_a_session_of_unknown_items_gets_what_is_clicked_most(tmp_path):
    toy = ExportedRecommender.load(toy_export(tmp_path))
    found = toy.recommend(["new 1", "new 2"], where="in_stock", attributes=True)
    assert [item.id for item in found.items] == [20, 18, 16, 14, 12]  # item i has i clicks
    assert [item.score for item in found.items] == [20, 18, 16, 14, 12]
    assert (found.variant, found.left_out, found.session) == ("popularity", ["new 1", "new 2"], [])
    assert found.notes[-1] == "these are the items with most clicks"
    assert found.items[0].attributes == {"category": "Clock", "price": 20}
    assert found.as_dict()["items"][0]["attributes"] == {"category": "Clock", "price": 20}
    toy.artefact.attributes.clicks = None  # as in exports of earlier versions
    toy.artefact.attributes.__dict__.pop("most_clicked")
    with pytest.raises(Exception, match="no item is called 'new 1'"):
        toy.recommend(["new 1"])


def test_an_export_of_an_earlier_version_says_that_it_takes_no_filters(tmp_path, monkeypatch):
    monkeypatch.setattr(Artefact, "lacks_filters", "", raising=False)
    toy = ExportedRecommender.load(toy_export(tmp_path))
    toy.filters.lacks = "this artefact takes no filters; export again"
    assert len(toy.recommend([1]).items) == 5
    with pytest.raises(Exception, match="takes no filters; export again"):
        toy.recommend([1], where="in_stock")


def test_sessions_with_filters_of_their_own(run, trained, monkeypatch):
    monkeypatch.setattr(answering, "SCORES", 60)  # three sessions of twenty items at once
    each = [dict(ASKED[number % len(ASKED)]) for number in range(len(SESSIONS))]
    each[1] = {}
    for model in (trained, ExportedRecommender.load(run / "export/onnx-plain-int8")):
        found = model.recommend_all(SESSIONS, k=K, where="in_stock", each=each)
        for session, own, one in zip(SESSIONS, each, found, strict=True):
            alone = model.recommend(session, k=K, **({"where": "in_stock"} | own))
            assert [item.id for item in one.items] == [item.id for item in alone.items]
            assert one.passing == alone.passing
    (error,) = trained.recommend_all([[3]], each=[{"wher": "in_stock"}])
    assert "no filter of a session" in str(error)
