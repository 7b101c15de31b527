"""Linear baselines as models of their own: exported, and recommended from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from llm4sbr import registry
from llm4sbr.data.prepared import load
from llm4sbr.errors import DeviceError, ExportError, InputError
from llm4sbr.fusion.item_item import ItemItem
from llm4sbr.fusion.linear import Linear
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.progress import Progress
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.training.linear import linear
from llm4sbr_export.checks import Shapes, compile_ahead, objections
from llm4sbr_export.graph import Graph
from llm4sbr_export.onnx import ADDING, OnnxScorer, write

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


# Item 1 knows 2 and 3, item 2 knows 1, item 3 nobody.
KNOWN = ItemItem(torch.tensor([[2, 3], [1, 0], [0, 0]]), torch.tensor([[0.5, 0.25], [2, 0], [0, 0]]))


@pytest.mark.parametrize("most_clicks", [None, 2, 5])
def test_scores_by_hand(most_clicks):
    older = np.exp(-1)
    module, items, mask = Linear(KNOWN, decay=1.0), *padded([[1, 2], [2, 1], [1], [3]])
    module.most_clicks = most_clicks
    expected = [[2, older / 2, older / 4], [2 * older, 0.5, 0.25], [0, 0.5, 0.25], [0, 0, 0]]
    np.testing.assert_allclose(module(items, mask).long.numpy(), expected, rtol=1e-6)
    module.decay = 0.0
    expected = [[2, 0, 0], [0, 0.5, 0.25], [0, 0.5, 0.25], [0, 0, 0]]
    np.testing.assert_allclose(module(items, mask).long.numpy(), expected)


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


def scatters(path: Path) -> set[str]:
    """How the scatters of a graph combine what meets at one place."""
    nodes = [node for node in onnx.load(path).graph.node if node.op_type.startswith("Scatter")]
    assert nodes, "no scatter at all: the test looks at the wrong thing"
    return {
        next((one.s.decode() for one in node.attribute if one.name == "reduction"), "none") for node in nodes
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slist", pytest.param("ar", marks=pytest.mark.slow)])
def test_graphs_for_tensorrt_hold_no_scatter_that_adds(run, name):
    export(run, Export(formats=("triton",), variant=name, k=5), QUIET)
    models = run / "export" / f"triton-{name}" / "models"
    first, second = (models / one / "1" / "model.onnx" for one in ("llm4sbr", "llm4sbr_tensorrt"))
    assert scatters(first) == {"add", "none"}
    assert scatters(second) == {"none"}
    with suppress(DeviceError):  # without a GPU there is the graph, and no engine
        export(run, Export(formats=("tensorrt",), variant=name, k=5), QUIET)
    assert scatters(run / "export" / f"tensorrt-{name}" / "model.onnx") == {"none"}
    items, mask = padded(SESSIONS)
    asked = {"items": items, "mask": mask, "exclude_seen": torch.zeros(len(items), 1, dtype=torch.bool)}
    one, other = (OnnxScorer(path, provider="cpu").score(**asked) for path in (first, second))
    torch.testing.assert_close(one[1], other[1])


@pytest.mark.slow
def test_tensorrt_cannot_add_in_a_scatter_but_click_by_click(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    path = tmp_path / "model.onnx"
    for most_clicks in (None, 6):
        model = LLM4SBR(Linear(KNOWN, decay=1.0), None, (), 0)
        write(Graph(model, k=2, intent_mode="plain", most_clicks=most_clicks), path, about={})
        if most_clicks:
            assert compile_ahead(path, Shapes(8, 6))
        else:
            assert set(objections(path)) == {f"operator {ADDING}"}
            with pytest.raises(ExportError, match="cannot parse it"):
                compile_ahead(path, Shapes(8, 6))


def test_what_is_no_linear_model_is_refused(run):
    with pytest.raises(InputError, match="'vmis-knn' keeps no weights per item and cannot be exported"):
        export(run, Export(variant="vmis-knn"), QUIET)
    with pytest.raises(InputError, match="'slist' has no seeds and no refit"):
        Recommender.load(run, variant="slist", seed=1)


WITHOUT_DECAY = """
import torch

class Mine:
    def __init__(self, num_items): self.size = num_items
    def fit(self, sessions): pass
    def score(self, items, mask): return torch.zeros(len(items), self.size)
    def neighbours(self, m): return torch.ones(self.size, m, dtype=torch.int64), torch.ones(self.size, m)
"""


def test_item_weights_without_a_decay_are_no_linear_model(run, install):
    install("half-linear", {"baselines": {"half": "half_linear:Mine"}}, half_linear=WITHOUT_DECAY)
    with pytest.raises(InputError, match="'half' keeps no weights per item"):
        linear("half", load(run / "prepare"))
