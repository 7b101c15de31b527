"""PyTorch, an exported model and the server answer by the same steps."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import torch

from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.progress import Progress
from llm4sbr.serving.answering import at_once
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.live_server import live_server
from llm4sbr.testing.toy_export import toy_export
from llm4sbr.testing.toy_run import toy_run

N, K, LONGEST = 20, 6, 7
"""Items of the toys, length of the lists, clicks that count."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = toy_run(tmp_path_factory.mktemp("runs") / "run", items=N, sources=())
    catalogue = load(run / "prepare").catalogue
    torch.manual_seed(0)
    recipe = Recipe(N, 8, "stamp")
    facts = {"seed": 0, "valid": {"MRR@20": 0.5}}
    folder = run / "train" / "plain" / "seed-0"
    save_model(folder, build(recipe), recipe=recipe, catalogue=catalogue_hash(catalogue), facts=facts)
    export(run, Export(k=K, precisions=("fp32", "int8")), Progress(quiet=True))
    return run


def ids_of(found) -> list[int]:
    return [item.id for item in found.items]


def sessions(recommender: Recommender) -> list[list[int]]:
    """Short ones, one of the longest that counts, and longer ones, some with the best items in their past."""
    recent = list(range(1, LONGEST + 1))
    best = ids_of(recommender.recommend(recent, k=N))
    return [
        [3],
        [5, 5, 2],
        recent,
        [*best[:2], *recent],
        [*best[:K], *recent],  # the whole list of the graph
        [*best[1 : K + 3], *best[:1] * 3, *recent],
        [*best[:-2], *recent],  # only two items are left
        [*best, *recent],  # none is
    ]


@pytest.mark.parametrize("precision", ["onnx", "onnx-int8"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_all_three_give_the_same_list(run, precision, exclude_seen):
    trained = Recommender.load(run)
    exported = ExportedRecommender.load(run / "export" / precision)
    assert trained.longest == exported.artefact.max_length == LONGEST
    with live_server(run / "export" / precision) as server:
        for session in sessions(trained):
            for k in (1, 4, K):
                options = {"k": k, "exclude_seen": exclude_seen}
                expected = trained.recommend(session, **options)
                found = exported.recommend(session, **options)
                served = server.ask("/recommend", {"session": session, **options}).json
                left = N - len(set(session)) if exclude_seen else N
                assert len(expected.items) == min(k, left)
                assert ids_of(found) == ids_of(expected)
                assert [item["id"] for item in served["items"]] == ids_of(expected)
                scores = [item.score for item in expected.items]
                np.testing.assert_allclose([item.score for item in found.items], scores, atol=1e-5)
                assert (found.variant, found.seed) == (expected.variant, expected.seed)


def test_old_clicks_that_fill_the_whole_list_are_left_out(tmp_path):
    """After 7 the toy recommends 8, 9, 10 ...: here the five best are clicks too old for the model."""
    exported = ExportedRecommender.load(toy_export(tmp_path / "export", items=N, k=5))
    session = [8, 9, 10, 11, 12, *range(1, 8)]
    assert ids_of(exported.recommend(session)) == [13, 14, 15, 16, 17]
    assert ids_of(exported.recommend(session, k=2)) == [13, 14]
    assert ids_of(exported.recommend(session, exclude_seen=False)) == [8, 9, 10, 11, 12]


def test_a_longer_session_is_computed_only_where_the_list_would_be_short(tmp_path, monkeypatch):
    exported = ExportedRecommender.load(toy_export(tmp_path / "export", items=N, k=5))
    lengths = []
    real = exported.artefact.run
    monkeypatch.setattr(
        exported.artefact, "run", lambda items, *rest: (lengths.append(items.shape[1]), real(items, *rest))[1]
    )
    exported.recommend([8, *range(1, 8)], k=4)  # 9, 10, 11, 12 are in the list anyway
    exported.recommend([8, *range(1, 8)], k=5)
    assert lengths == [7, 7, 8]


def test_steps_that_wait_are_not_run_at_once():
    async def steps() -> int:
        await asyncio.sleep(0)
        return 1

    with pytest.raises(RuntimeError, match="a step waited"):
        at_once(steps())


def test_json_of_an_answer_is_the_same(run):
    """What the command prints of both, but for who computed it and rounding."""
    found = [
        made.recommend([1, 2, 3], k=K).as_dict()
        for made in (Recommender.load(run), ExportedRecommender.load(run / "export" / "onnx"))
    ]
    for one in found:
        one.pop("engine")
        for item in one["items"]:
            item["score"] = round(item["score"], 4)
    assert json.dumps(found[0]) == json.dumps(found[1])
