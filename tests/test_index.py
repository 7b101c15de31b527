"""Exports with an index: candidates from a part of the catalogue, scored exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from llm4sbr import store
from llm4sbr.cli import _guarded
from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.errors import ExportError, StoreError
from llm4sbr.exporting import ExportSpec
from llm4sbr.fusion.counted import Counted
from llm4sbr.fusion.item_item import ItemItemScores
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.progress import Progress
from llm4sbr.serving import search
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.recommend import Recommender
from llm4sbr.serving.search import INDEX, Added, Search
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.live_server import live_server
from llm4sbr.testing.toy_run import WIDTH, toy_run
from llm4sbr_export import index as writing
from llm4sbr_export.onnx import Onnx

N, K = 20, 5
QUIET = Progress(quiet=True)


def fill(table: torch.nn.Module, generator: torch.Generator) -> None:
    """Random distinct neighbours, the last of each item missing, with positive weights."""
    count, kept = table.items.shape
    order = torch.rand(count, count, generator=generator).argsort(1)[:, :kept] + 1
    table.items.copy_(order)
    table.weights.copy_(torch.rand(count, kept, generator=generator))
    table.items[:, -1], table.weights[:, -1] = 0, 0


def model_with_everything(items: int = N, *, dim: int = 8, fuser: str | None = "whitened"):
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    both = ("long", "short") if fuser else ()
    options = {"rank": 4} if fuser else {}
    recipe = Recipe(items, dim, "stamp", {}, fuser, options, both, both, WIDTH if fuser else 0,
                    predictor=bool(fuser), neighbours=6, counted=("near", "lift", "own"))  # fmt: skip
    model = build(recipe).eval()
    with torch.no_grad():
        if fuser:
            titles = torch.randn(items, WIDTH, generator=generator)
            model.fuser.fit(titles, torch.randint(0, 30, (items,), generator=generator))
            model.fuser.own.fill_(0.1)
            model.fuser.to_text.weight.normal_(generator=generator)
        fill(model.item_item, generator)
        for table in model.counted.by_name.values():
            fill(table, generator)
            table.weight.fill_(0.7)
            table.small.fill_(0.2)
        model.counted.prior.fill_(0.3)
        model.counted.own.copy_(torch.tensor([1.5, -0.5]))
        model.counted.popularity.normal_(generator=generator)
    return recipe, model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = toy_run(tmp_path_factory.mktemp("runs") / "run", items=N)
    recipe, model = model_with_everything()
    facts = {"seed": 0, "valid": {"MRR@20": 0.5}}
    hash = catalogue_hash(load(run / "prepare").catalogue)
    save_model(run / "train/llm/seed-0", model, recipe=recipe, catalogue=hash, facts=facts)
    export(run, Export(k=K, precisions=("fp32", "index")), QUIET)
    return run


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run / "export/onnx-index", tmp_path / "copy")


def test_what_a_table_adds_by_hand():
    items = np.array([[2, 3], [3, 0], [1, 2]], np.int32)
    weights = np.array([[1.0, 0.5], [2.0, 0.0], [4.0, 1.0]], np.float32)
    added = Added(items, weights, np.array([1.0, 0.5], np.float32), 2.0, 0.25)
    ids, told = added.of(np.array([2, 3, 1]))  # the last two count: 1 wholly, 3 by half
    # item 1: 0.5 x 4; item 2: 1 + 0.5 x 1; item 3: 0.5
    assert ids.tolist() == [1, 2, 3]
    np.testing.assert_allclose(told, 2 * np.log1p(np.array([2.0, 1.5, 0.5]) / 0.25))


def test_tables_add_what_the_modules_add():
    _, model = model_with_everything(fuser=None)
    items = torch.tensor([[3, 1, 4, 4, 9, 2, 6], [5, 3, 0, 0, 0, 0, 0]])
    tables = writing.added_of(model)
    modules = [model.item_item, *model.counted.by_name.values()]
    assert [type(one).__name__ for one in modules] == ["ItemItemScores", "Table", "Table"]
    for added, module in zip(tables, modules, strict=True):
        whole = (items, items > 0)
        nothing = torch.zeros(2, N)
        expected = module(*whole) if isinstance(module, ItemItemScores) else module(nothing, *whole)
        for row, session in enumerate(items):
            ids, told = added.of(session[session > 0].numpy())
            dense = np.zeros(N)
            dense[ids[ids > 0] - 1] = told[ids > 0]
            np.testing.assert_allclose(dense, expected[row].detach(), atol=1e-5)
    assert isinstance(model.counted, Counted)


@pytest.mark.slow
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_are_those_of_the_trained_model(run, exclude_seen):
    """The toy's index has one list, so nothing is missed: tables, popularity, own items and intents count."""
    trained, indexed = Recommender.load(run), ExportedRecommender.load(run / "export/onnx-index")
    assert indexed.artefact.search is not None
    sessions = [[3], [5, 5, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9], [20, 19], list(range(1, 18))]
    for one in sessions:
        options = {"k": K, "exclude_seen": exclude_seen, "source": "predictor"}
        expected, found = (model.recommend(one, **options).items for model in (trained, indexed))
        assert [item.id for item in found] == [item.id for item in expected]
        scores = [item.score for item in expected]
        np.testing.assert_allclose([item.score for item in found], scores, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 5000])
@pytest.mark.parametrize("where", ["category in Lamp, Rug, Chair", "category != Lamp", "category = Vase"])
def test_filtered_lists_are_those_of_the_trained_model(run, where, few, monkeypatch):
    """Whether the index looks for the items that pass, or all of them are scored."""
    monkeypatch.setattr(search, "FEW", few)
    trained = Recommender.load(run)
    for name in ("onnx", "onnx-index"):
        exported = ExportedRecommender.load(run / "export" / name)
        for one in ([3], [5, 5, 2], [20, 19], list(range(1, 18))):
            for exclude_seen in (True, False):
                options = {"exclude_seen": exclude_seen, "source": "predictor", "where": where}
                expected = trained.recommend(one, k=K, **options)
                found = exported.recommend(one, **options)
                assert [item.id for item in found.items] == [item.id for item in expected.items]
                assert found.passing == expected.passing > 0


def test_an_index_finds_as_many_as_pass(monkeypatch):
    """One item in fifty passes, far away from what the query looks for."""
    monkeypatch.setattr(search, "FEW", 10)
    generator = np.random.default_rng(0)
    rows = np.concatenate([generator.normal(0, 1, (4900, 8)), generator.normal(-9, 1, (100, 8))])
    rows = rows.astype(np.float32)
    found = Search(writing.built(rows), rows, [], own=None, count=50)
    found.index.nprobe = 1
    allowed = np.where(np.arange(5000) < 4900, -np.inf, 0)[None].astype(np.float32)
    query = np.ones((2, 8), np.float32)
    items = np.array([[1], [4901]])
    ids, scores = found.top(query, items, items > 0, np.ones((2, 1), np.bool_), 20, allowed)
    exact = np.argsort(-(rows[4900:] @ query[0]))[:20] + 4901
    assert ids[0].tolist() == exact.tolist()
    assert (ids > 4900).all()
    assert 4901 not in ids[1]
    assert np.isfinite(scores).all()


def test_what_is_left_when_the_nearest_are_left_out(monkeypatch):
    """Items lie in 40 groups, and a filter leaves out the one that each query looks for."""
    generator = np.random.default_rng(0)
    centres = generator.normal(0, 1, (40, 16))
    group = np.repeat(np.arange(40), 150)
    rows = (centres[group] + 0.3 * generator.normal(0, 1, (6000, 16))).astype(np.float32)
    found = Search(writing.built(rows), rows, [], own=None, count=50)
    found.index.nprobe = 5
    items, exclude = np.array([[1]]), np.zeros((1, 1), np.bool_)
    recall = {1: 0, search.FARTHER: 0}
    for factor in recall:
        monkeypatch.setattr(search, "FARTHER", factor)
        for one in range(40):
            query = (2 * centres[one]).astype(np.float32)
            allowed = np.where(group == one, -np.inf, 0)[None].astype(np.float32)
            ids, _ = found.top(query[None], items, items > 0, exclude, 10, allowed)
            best = np.argsort(-(rows @ query + allowed[0]))[:10] + 1
            recall[factor] += len(np.intersect1d(ids[0], best)) / 400
    assert recall[1] < 0.9
    assert recall[search.FARTHER] > 0.97


@pytest.mark.slow
def test_the_recall_is_in_the_summary(run):
    known = store.read_json(run / "export/export.json")["onnx-index"]["verified"]
    assert known["recall@5"] == 1.0
    assert known["tolerance"] == {"max_difference": 1e-4, "recall@5": 0.99}


@pytest.mark.slow
def test_a_server_answers_with_the_index_and_explains(folder):
    with live_server(folder) as server:
        found = server.ask("/recommend", {"session": [3, 7], "explain": True}).json
        expected = ExportedRecommender.load(folder).recommend([3, 7], k=K)
        assert [one["id"] for one in found["items"]] == [one.id for one in expected.items]
        assert found["intents"]["perspectives"][0]["items"]
        tensor = {"name": "items", "datatype": "INT64", "shape": [1, 2], "data": [3, 7]}
        raw = server.ask("/v2/models/llm4sbr/infer", {"inputs": [tensor]}).json
        assert raw["outputs"][0]["data"] == [one.id for one in expected.items]


@pytest.mark.slow
def test_a_new_version_with_an_index_is_taken_and_a_damaged_one_is_not(folder, run, tmp_path):
    other, served = run / "export/onnx", tmp_path / "served"
    shutil.copytree(other, served)
    with live_server(served, "--watch", "0.1") as server:
        before = server.ask("/recommend", {"session": [3, 7]}).json["items"]
        broken = shutil.copytree(folder, tmp_path / "broken")
        (broken / INDEX).write_bytes((broken / INDEX).read_bytes()[:-1])
        for new, said in ((broken, INDEX), (folder, "")):
            served.rename(tmp_path / f"old-{said}")
            shutil.copytree(new, served)
            if said:
                assert INDEX in str(server.wait_for("new version refused"))
            else:
                server.wait_for("model ready", count=2)
            after = server.ask("/recommend", {"session": [3, 7]}).json["items"]
            assert [one["id"] for one in after] == [one["id"] for one in before]


@pytest.mark.slow
def test_an_index_of_another_model_is_refused(folder):
    artefact = Artefact.open(folder)
    about = dict(artefact.session.get_modelmeta().custom_metadata_map)
    for key in ("fingerprint", "catalogue"):
        artefact.search.write(folder / INDEX, about | {key: "other"})
        hashes = store.read_json(folder / "artefact.json")
        hashes["files"][INDEX] = store.file_sha256(folder / INDEX)
        (folder / "artefact.json").write_text(json.dumps(hashes))
        with pytest.raises(StoreError, match=f"the index of another {key}"):
            Search.open(folder / INDEX, about)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "cut", "header", "index"])
def test_a_damaged_index_is_one_line(folder, damage, capfd):
    path = folder / INDEX
    content = path.read_bytes()
    start = content.index(b"IwSq") if b"IwSq" in content else len(content) // 2
    changed = {
        "cut": content[:-100],
        "header": content[:8] + b"[" + content[9:],
        "index": content[:start] + b"IxXX" + content[start + 4 :],
    }
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    record = store.read_json(folder / "artefact.json")
    with pytest.raises(StoreError):
        Search.open(path, record)
    assert _guarded(["recommend", str(folder), "--session", "i02"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


def structured(items: int, dim: int) -> torch.Tensor:
    """Item vectors in clusters of about 50."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(items // 50, dim, generator=generator)
    cluster = torch.randint(0, len(centres), (items,), generator=generator)
    return centres[cluster] + 0.3 * torch.randn(items, dim, generator=generator)


def written(folder: Path, *, recall: float = 0.99, items: int = 4000) -> Onnx:
    torch.manual_seed(0)
    model = build(Recipe(items, 16, "stamp")).eval()
    with torch.no_grad():
        model.backbone.item_embeddings().copy_(structured(items, 16))
    about = {"fingerprint": "f", "catalogue": "c", "num_items": str(items), "k": "20"}
    spec = ExportSpec(20, "plain", "index", 64, 50, about, recall)
    sessions = torch.randint(1, items + 1, (64, 4), generator=torch.Generator().manual_seed(3))
    example = {"items": sessions, "mask": sessions > 0, "exclude_seen": torch.zeros(64, 1).bool()}
    Onnx(provider="cpu", threads=1).export(model, example, folder / "model.onnx", spec=spec)
    return Onnx(provider="cpu", threads=1)


def test_an_index_reads_few_lists_and_finds_nearly_all(tmp_path):
    scorer = written(tmp_path, recall=0.9).load(tmp_path / "model.onnx")
    assert scorer.search.index.nlist == 62  # 64 items per list at least
    assert scorer.search.index.nprobe < 62
    sessions = torch.randint(1, 4001, (100, 3), generator=torch.Generator().manual_seed(9))
    ids, scores = scorer.score(items=sessions, mask=sessions > 0, exclude_seen=torch.ones(100, 1).bool())
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert not (ids.unsqueeze(2) == sessions.unsqueeze(1)).any()
    queries = torch.from_numpy(scorer.session.run(["query"], {
        "items": sessions.numpy(), "mask": (sessions > 0).numpy()})[0])  # fmt: skip
    exact = queries @ torch.from_numpy(np.array(scorer.search.rows)).T
    exact.scatter_(1, sessions - 1, -torch.inf)
    best = exact.topk(20)
    recall = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(ids.tolist(), (best.indices + 1).tolist())])  # noqa: B905
    assert recall >= 0.9


def test_a_recall_that_is_not_reached_is_one_line_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARE", 62)  # one list
    with pytest.raises(ExportError, match=r"the index finds 0\.\d+ of the 20 best items with 1 of 62 lists"):
        written(tmp_path, recall=0.999)


@pytest.mark.slow
def test_a_recall_missed_on_test_sessions_fails_the_export(run, monkeypatch, capfd):
    scored = Search._scored

    def without_the_two_best(self, *given):
        values = scored(self, *given)
        values[np.argsort(-values)[:2]] = -np.inf
        return values

    monkeypatch.setattr(Search, "_scored", without_the_two_best)
    monkeypatch.setattr(writing, "_choose", lambda *_: None)
    before = sorted((run / "export").iterdir())
    assert _guarded(["export", str(run), "--precision", "index", "-k", "5", "--quiet"]) == 2
    told = capfd.readouterr().err
    assert "recall@5 of the index is 0." in told
    assert "asked was 0.99; nothing was kept" in told
    assert len(told.splitlines()) == 1
    assert sorted((run / "export").iterdir()) == before


@pytest.mark.slow
def test_a_model_without_a_table_cannot_have_one(run, capfd):
    recipe = Recipe(N, 8, "tagnn")
    hash = catalogue_hash(load(run / "prepare").catalogue)
    torch.manual_seed(0)
    save_model(run / "train/plain/seed-0", build(recipe), recipe=recipe, catalogue=hash, facts={})
    arguments = ["export", str(run), "--variant", "plain", "--precision", "index", "-k", "5", "--quiet"]
    assert _guarded(arguments) == 2
    told = capfd.readouterr().err
    assert "TAGNN scores by more than one product" in told
    assert len(told.splitlines()) == 1
