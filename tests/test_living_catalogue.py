"""Items that come into an exported model's catalogue, or leave it, without training."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from llm4sbr import api, pipeline, store
from llm4sbr.cli import cli
from llm4sbr.config import nest
from llm4sbr.errors import InputError, StoreError
from llm4sbr.exporting.new_items import _at_scale, measured_prior, rows_of
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.progress import Progress
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.added import ADDED, Added, put
from llm4sbr.serving.artefact import Artefact, read_record
from llm4sbr.serving.attributes import Attributes
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.grown import Grown, best, extended
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.catalogue import texts_of_new
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.live_server import live_server
from llm4sbr.testing.toy_export import toy_export

sys.path.insert(0, str(Path(__file__).parent))

from toy_runs import settings

QUIET = Progress(quiet=True)
NEW = """item_id,title,category
n01,Red Lamp (1999),Lamp
n02,Golden Sofa (2001),Sofa
i03,Green Table (1992),Table
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an exported model that scores titles, and a table of two new items and a known one."""
    base = tmp_path_factory.mktemp("catalogue")
    given = settings(base)
    given["train"] |= {"plain": False, "epochs": 2}
    given["infer"] |= {"controls": []}
    pipeline.execute(base / "run", given, progress=QUIET)
    export(base / "run", Export(k=6), QUIET)
    (base / "new.csv").write_text(NEW)
    return base


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base / "run", tmp_path / "run"))


@pytest.fixture(scope="module")
def grown(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which the table was added."""
    run = Path(shutil.copytree(base / "run", tmp_path_factory.mktemp("grown") / "run"))
    api.add_items(run, base / "new.csv")
    return run


@pytest.mark.slow
def test_new_items_are_scored_by_their_titles_as_the_trained_model_would(grown: Path) -> None:
    original, added = ReferenceModel.of(grown), Added.open(grown / "catalogue" / ADDED)
    assert (added.keys, added.titles) == (["n01", "n02"], ["Red Lamp (1999)", "Golden Sofa (2001)"])
    model: Any = original.saved.model
    artefact = Artefact.open(grown / "export/onnx")
    assert isinstance(artefact, Grown)
    items, mask = np.array([[3, 4, 5]]), np.ones((1, 3), np.bool_)
    ids, scores = artefact.run(items, mask, np.ones((1, 1), np.bool_))
    # By the formula, in torch: a whitened title's inner product with the text query, plus the prior.
    from llm4sbr import registry
    from llm4sbr.config.in_force import configure

    localize = configure(grown).localize
    encoder: Any = registry.create("encoders", localize.encoder, **localize.encoder_options)
    titles = model.fuser.whitening(encoder.encode(added.titles)).half().float()  # as the model's own
    with torch.inference_mode():
        predict = original.intent_mode == "predictor"
        output = model.represent(torch.tensor(items), torch.tensor(mask), None, predict=predict)
        scale = added.measured["scale"]
        expected = scale * model.fuser._query(output.fused, output.intents) @ titles.T + added.prior
        everything = torch.cat([output.scores, expected], 1)
    everything = everything.clone()
    everything[0, [2, 3, 4]] = -torch.inf
    order = everything[0].argsort(descending=True)[:6]
    assert set(ids[0].tolist()) == set((order + 1).tolist())
    assert np.allclose(np.sort(scores[0]), np.sort(everything[0, order].numpy()), atol=1e-3)


@pytest.mark.slow
def test_it_is_served_in_lists_found_by_key_and_filtered(grown: Path) -> None:
    found = ExportedRecommender.load(grown / "export/onnx")
    only = found.recommend(["i03"], only=["n01", "n02", "i05"], k=6, attributes=True)
    assert {one.key for one in only.items} == {"n01", "n02", "i05"}
    assert [one.key for one in found.recommend(["i03"], where="category = Sofa", k=3).items] == ["n02"]
    left = found.recommend(["i03", "n01"], only=["n01", "n02"], k=6)
    assert [one.key for one in left.items] == ["n02"]  # the session's own item is left out
    alone = found.recommend(["n01"], k=6)
    assert "n01" not in {one.key for one in alone.items}
    assert len(alone.items) == 6
    assert found.recommend(["golden sofa"], k=1).items
    many = found.recommend_all([["i03"], ["n02", "i04"]], k=2)
    assert all(len(one.items) == 2 for one in many)  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_run_itself_has_them(grown: Path, base: Path) -> None:
    run, exported = Recommender.load(grown), ExportedRecommender.load(grown / "export/onnx")
    assert run.fingerprint != Recommender.load(base / "run").fingerprint
    for session in (["i03"], ["i03", "n01"], ["n02"], ["golden sofa", "i04"]):
        own, theirs = run.recommend(session, k=6, source="predictor"), exported.recommend(session, k=6)
        assert [one.key for one in own.items] == [one.key for one in theirs.items]
        assert np.allclose([one.score for one in own.items], [one.score for one in theirs.items], atol=1e-3)
    only = run.recommend(["i03"], only=["n01", "n02"], k=6, attributes=True)
    assert {one.key for one in only.items} == {"n01", "n02"}
    many = run.recommend_all([["i03"], ["n02", "i04"]], where="category in Sofa, Lamp", k=3)
    assert "n02" in {one.key for one in many[0].items}  # type: ignore[union-attr]
    assert "n02" not in {one.key for one in many[1].items}  # type: ignore[union-attr]


@pytest.mark.slow
def test_what_is_exported_later_has_them(grown: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    run = Path(shutil.copytree(grown, tmp_path / "run"))
    (taken,) = Recommender.load(run).recommend(["i03"], k=1).items
    api.remove_items(run, [taken.key if taken.key not in ("n01", "n02") else "i10"])
    shutil.rmtree(run / "export")
    export(run, Export(k=6, precisions=("fp32", "index")), QUIET)
    whole, indexed = (ExportedRecommender.load(run / "export" / name) for name in ("onnx", "onnx-index"))
    for about in ({}, {"only": ["n01", "n02", "i05"]}, {"exclude_seen": False}):
        for session in (["i03"], ["i03", "n01"], ["n02"]):
            one, other = (model.recommend(session, k=6, **about) for model in (whole, indexed))
            assert [item.key for item in one.items] == [item.key for item in other.items]
            assert np.allclose([item.score for item in one.items], [i.score for i in other.items], atol=1e-3)
            assert [item.key for item in one.items] == [
                item.key
                for item in Recommender.load(run).recommend(session, source="predictor", k=6, **about).items
            ]
    added = Added.open(run / "catalogue" / ADDED)
    added._replace(fingerprint="older").write(run / "catalogue" / ADDED)
    said = io.StringIO()
    export(run, Export(k=6), Progress(console=Console(file=said, width=300)))
    assert "has items for another model; run llm4sbr catalogue add again" in said.getvalue()
    assert not isinstance(Artefact.open(run / "export/onnx"), Grown)


def test_what_an_llm_said_represents_new_items_where_it_does_the_others() -> None:
    new = Catalogue(["a", "b"], ["Lamp", "Sofa"], {"answer": ["warm light", ""]})
    assert texts_of_new(new, "title") == ["Lamp", "Sofa"]
    assert texts_of_new(new, "answers") == ["warm light", "Sofa"]
    assert texts_of_new(new, "both") == ["Lamp\nwarm light", "Sofa"]
    assert texts_of_new(new._replace(attributes={}), "both") == ["Lamp", "Sofa"]


def test_clicks_on_new_items_by_hand() -> None:
    grown = Grown.__new__(Grown)
    grown.own = 10
    grown.added = Added(
        "", ["a", "b"], ["a", "b"], {}, np.zeros((2, 1), np.float32), np.array([4, 7]), 0, [], {}
    )
    items = np.array([[3, 11, 5, 0], [11, 12, 0, 0], [2, 3, 0, 0], [12, 6, 11, 9]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], np.bool_)
    mask[3] = [True, False, False, False]
    read, there = grown.readable(items, mask)
    assert read.tolist() == [[3, 5, 0, 0], [7, 0, 0, 0], [2, 3, 0, 0], [7, 6, 9, 0]]
    assert there.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert items.tolist()[0] == [3, 11, 5, 0]  # not changed


def test_lists_and_new_items_together_by_hand() -> None:
    ids, scores = np.array([[4, 2, 0]]), np.array([[0.9, 0.5, -np.inf]], np.float32)
    new = np.array([[0.7, -np.inf, 0.5, 0.1]], np.float32)
    found, values = best(ids, scores, new, 10)
    assert found.tolist() == [[4, 11, 2]]  # a tie: the model's own item first
    assert np.allclose(values, [[0.9, 0.7, 0.5]])
    nothing = best(ids, scores, np.full((1, 1), -np.inf, np.float32), 10)
    assert nothing[0].tolist() == [[4, 2, 0]]


def test_a_file_that_is_none_or_of_another_model(tmp_path: Path) -> None:
    folder = toy_export(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match="no items to be added"):
        api.add_items(folder, tmp_path / "bad.safetensors")
    rows = np.zeros((1, 3), np.float32)
    other = Added("other", ["x"], ["X"], {}, rows, np.array([1]), 0.0, [], {})
    other.write(tmp_path / "other.safetensors")
    before = (folder / "artefact.json").read_bytes()
    with pytest.raises(InputError, match="another model"):
        api.add_items(folder, tmp_path / "other.safetensors")
    for wrong in (
        {"titles": []},
        {"attributes": {"a": []}},
        {"prior": float("nan")},
        {"rows": rows[:0]},
        {"read_as": np.array([1.0])},
        {"keys": ["x", "x"], "titles": ["X", "X"]},
    ):
        other._replace(**wrong).write(tmp_path / "wrong.safetensors")
        with pytest.raises(StoreError, match="no items to be added"):
            Added.open(tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match="no item has the key"):
        api.remove_items(folder, ["nothing"])
    assert (folder / "artefact.json").read_bytes() == before


def test_attributes_of_new_items() -> None:
    own = Attributes.of({"price": ["3", ""], "kind": ["a", "b"]}, np.array([5, 6]))
    own.filters["stock"] = np.array([True, False])
    found = extended(own, {"price": ["7.5", "x"], "kind": ["b", "new"], "size": ["", "XL"]}, 2, 2)
    assert [found.item(n) for n in (1, 2, 3, 4)] == [
        {"price": 3, "kind": "a"},
        {"kind": "b"},
        {"price": 7.5, "kind": "b"},
        {"kind": "new", "size": "XL"},
    ]
    assert found.filters["stock"].tolist() == [True, False, False, False]
    assert found.clicks is not None
    assert found.clicks.tolist() == [5, 6, 0, 0]


@pytest.mark.slow
def test_the_prior_costs_others_little(grown: Path) -> None:
    original = ReferenceModel.of(grown)
    vectors = store.read_tensors(grown / "localize/items.safetensors")["items"]
    found = measured_prior(original, vectors)
    told = found.measured
    assert told["HR@4 on others"] >= 0.99 * told["HR@4 on others, without new ones"]
    assert told["new_items"] == 1
    assert np.isfinite(found.value)
    assert rows_of(original, vectors[:2]).shape[0] == 2


def test_a_scale_tells_sessions_apart_where_a_prior_alone_cannot() -> None:
    """The click on the new item needs a prior of 0.7, which costs the other sample its hit from 0.6 on."""
    best = torch.tensor([[1.2, 0.0], [1.0, 0.0]])
    new, target, place = torch.tensor([[0.5], [0.4]]), torch.tensor([0.0, 1.0]), torch.tensor([0, -1])
    original: Any = None  # names the model in errors only
    one, four = (_at_scale(original, (best, new, target, place), scale, 1) for scale in (1.0, 4.0))
    assert (one.measured["HR@1 on new"], one.measured["HR@1 on others"]) == (0.0, 1.0)
    assert (four.measured["HR@1 on new"], four.measured["HR@1 on others"]) == (1.0, 1.0)
    assert (
        -0.8 < four.value < -0.6
    )  # 4 x 0.5 - 0.8 is the best score of the first, 4 x 0.4 - 0.6 of the second


@pytest.mark.slow
def test_taken_out_and_put_back(run: Path, base: Path) -> None:
    folder = run / "export/onnx"
    before = ExportedRecommender.load(folder).recommend(["i03"], k=6).items
    found = api.remove_items(run, [before[0].key])
    assert found["removed"] == [before[0].key]
    now = ExportedRecommender.load(folder).recommend(["i03"], k=6).items
    assert [one.key for one in now[:5]] == [one.key for one in before[1:]]
    api.add_items(run, base / "new.csv")
    assert api.changed_items(run)["removed"] == [before[0].key]
    assert [one["key"] for one in api.remove_items(folder, ["n01"])["added"]] == ["n02"]
    with pytest.raises(InputError, match="no item has the key 'n09'"):
        api.remove_items(run, ["n09"])


@pytest.mark.slow
def test_carried_to_another_machine_without_torch(base: Path, grown: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base / "run/export/onnx", tmp_path / "shop"))
    found = api.add_items(folder, grown / "catalogue" / ADDED)
    assert [one["key"] for one in found["added"]] == ["n01", "n02"]
    assert found["exports"] == [str(folder)]
    again = api.add_items(folder, grown / "catalogue" / ADDED)
    assert again["added"] == found["added"]


@pytest.mark.slow
def test_refused_and_nothing_changes(run: Path, base: Path, tmp_path: Path) -> None:
    record = (run / "export/onnx/artefact.json").read_bytes()
    (tmp_path / "other.csv").write_text("item_id,title\ni03,Another title\n")
    result = CliRunner().invoke(cli, ["catalogue", "add", str(run), str(tmp_path / "other.csv")])
    assert isinstance(result.exception, InputError)
    assert "'i03' is 'Green Table (1992)' in the catalogue" in str(result.exception)
    assert not (run / "catalogue").exists()
    for text in ("", "a,b\n1,2\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError):
            api.add_items(run, tmp_path / "bad.csv")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match="no items to be added"):
        api.add_items(run / "export/onnx", tmp_path / "bad.safetensors")
    rows = np.zeros((1, 3), np.float32)
    other = Added("other", ["x"], ["X"], {}, rows, np.array([1]), 0.0, [], {})
    other.write(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another model"):
        api.add_items(run / "export/onnx", tmp_path / "other.safetensors")
    assert (run / "export/onnx/artefact.json").read_bytes() == record
    put(run / "export/onnx", read_record(run / "export/onnx"), other)
    with pytest.raises(StoreError, match="another model"):
        Artefact.open(run / "export/onnx")


@pytest.mark.slow
def test_a_model_without_titles_says_so(run: Path, base: Path) -> None:
    pipeline.execute(run, nest({"train.plain": True}), progress=QUIET, until="train")
    with pytest.raises(InputError, match="scores no titles"):
        api.add_items(run, base / "new.csv", variant="plain")


@pytest.mark.slow
def test_a_server_takes_them_up(run: Path, base: Path) -> None:
    with live_server(run / "export/onnx", "--watch", "0.1") as server:
        found = CliRunner().invoke(cli, ["catalogue", "add", str(run), str(base / "new.csv"), "--json", "-q"])
        assert found.exit_code == 0, found.output
        assert [one["key"] for one in json.loads(found.output)["added"]] == ["n01", "n02"]
        server.wait_for("model ready", count=2)
        answer = server.ask("/recommend", {"session": ["n01"], "k": 6})
        assert answer.status == 200
        assert "Red Lamp (1999)" in answer.body.decode()  # what the session is understood as
        assert len(answer.json["items"]) == 6
