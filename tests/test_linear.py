"""Linear baselines as models of their own: exported, and recommended from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llm4sbr import registry
from llm4sbr.data.prepared import load
from llm4sbr.errors import InputError
from llm4sbr.fusion.neighbours import NeighbourScores, decayed
from llm4sbr.progress import Progress
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.training.linear import linear

ITEMS = 20
QUIET = Progress(quiet=True)
SESSIONS = [[1, 2, 3], [4], [5, 5, 6, 7, 8, 9]]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return toy_run(tmp_path_factory.mktemp("runs") / "run", items=ITEMS)


def padded(sessions):
    width = max(map(len, sessions))
    items = torch.tensor([one + [0] * (width - len(one)) for one in sessions])
    return items, items > 0


def test_scores_by_hand():
    # Item 1 knows 2 and 3, item 2 knows 1; the earlier click counts 1/e.
    module = NeighbourScores(
        torch.tensor([[2, 3], [1, 0], [0, 0]]), torch.tensor([[0.5, 0.25], [2, 9], [9, 9]])
    )
    items, mask = padded([[1, 2], [2, 1], [1], [3]])
    older = np.exp(-1)
    expected = [[2, older / 2, older / 4], [2 * older, 0.5, 0.25], [0, 0.5, 0.25], [0, 0, 0]]
    np.testing.assert_allclose(module(items, decayed(mask, 1.0)).numpy(), expected, rtol=1e-6)
    expected = [[2, 0, 0], [0, 0.5, 0.25], [0, 0.5, 0.25], [0, 0, 0]]
    np.testing.assert_allclose(module(items, decayed(mask, 0.0)).numpy(), expected)


@pytest.mark.parametrize("name", ["slist", "item-knn", "sr", "markov"])
def test_the_model_scores_as_the_baseline(run, name):
    prepared = load(run / "prepare")
    baseline = registry.create("baselines", name, num_items=ITEMS)
    baseline.fit(prepared.train)
    items, mask = padded(SESSIONS)
    with torch.no_grad():
        found = linear(name, prepared).model(items, mask)
    np.testing.assert_allclose(found.numpy(), baseline.score(items, mask).numpy(), atol=1e-6)


def test_exported_lists_are_the_models_own(run):
    export(run, Export(variant="slist", k=5), QUIET)
    artefact = Artefact.open(run / "export" / "onnx-slist")
    recommender = Recommender.load(run, variant="slist")
    for session in SESSIONS:
        expected = recommender.recommend(session, k=5)
        items, mask = padded([session])
        ids, scores = artefact.top(items.numpy(), mask.numpy())
        ours = {item.id: item.score for item in expected.items}
        found = dict(zip(ids[0].tolist(), scores[0].tolist(), strict=True))
        assert found == pytest.approx(ours, abs=1e-6)
    assert (recommender.trained.variant, expected.intents) == ("slist", None)


def test_what_is_no_linear_model_is_refused(run):
    with pytest.raises(InputError, match="'vmis-knn' keeps no weights per item and cannot be exported"):
        export(run, Export(variant="vmis-knn"), QUIET)
    with pytest.raises(InputError, match="'slist' has no seeds and no refit"):
        Recommender.load(run, variant="slist", seed=1)
