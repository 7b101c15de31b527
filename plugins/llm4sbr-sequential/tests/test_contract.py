"""The contract; exporting takes longest and is for the slow tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from llm4sbr_sequential.core import CORE

from llm4sbr import registry
from llm4sbr.errors import ConfigError
from llm4sbr.testing.backbones import BackboneContract, pad
from llm4sbr.testing.exporters import toy_inputs, toy_model, toy_spec


class Contract(BackboneContract):
    @pytest.mark.slow
    def test_exports_to_onnx(self, tmp_path: Path) -> None:
        super().test_exports_to_onnx(tmp_path)

    @pytest.mark.slow
    def test_can_be_traced(self) -> None:
        super().test_can_be_traced()


class TestCore(Contract):
    name = "core"


class TestNiser(Contract):
    name = "niser"


class TestLessr(Contract):
    name = "lessr"


class TestAttenMixer(Contract):
    name = "atten-mixer"


class Heavier(Contract):
    @pytest.mark.slow
    def test_learns_a_rule(self) -> None:
        super().test_learns_a_rule()

    @pytest.mark.slow
    def test_fused_with_missing_intents(self) -> None:
        super().test_fused_with_missing_intents()


class TestHide(Heavier):
    name = "hide"


class TestMsgat(Heavier):
    name = "msgat"


class TestKmvg(Heavier):
    name = "kmvg"


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("core", {"blocks": -1}),
        ("core", {"heads": 3}),
        ("core", {"temperature": 0.0}),
        ("niser", {"scale": 0.0}),
        ("niser", {"positions": 0}),
        ("lessr", {"layers": 0}),
        ("lessr", {"arrivals": 0}),
        ("atten-mixer", {"levels": 0}),
        ("atten-mixer", {"power": 0.5}),
        ("hide", {"intents": 3}),
        ("hide", {"window": 1}),
        ("hide", {"share": 1.5}),
        ("kmvg", {"hops": 0}),
        ("msgat", {"heads": 5}),
        ("msgat", {"neighbours": 101}),
        ("msgat", {"scale": 0.0}),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_named(name, option):
    (key,) = option
    with pytest.raises(ConfigError, match=rf"^{name}: .*{key} = "):
        registry.create("backbones", name, num_items=9, dim=8, **option)


@pytest.mark.parametrize("name", ["core", "niser", "atten-mixer"])
def test_scores_are_cosines_whatever_a_fuser_makes(name):
    contract = type("Contract", (BackboneContract,), {"name": name})()
    scale = {"core": 1 / 0.07, "niser": 16.0, "atten-mixer": 16.0}[name]
    batch = pad([[1, 2, 3], [4]])
    with torch.no_grad():
        plain, fused = contract.model().eval(), contract.fused().eval()
        for scores in (plain(*batch), fused(*batch, 100 * torch.randn(2, 2, fused.text_dim))):
            assert scores.abs().max() <= scale * (1 + 1e-6)
        plain.backbone.items.mul_(torch.rand(20, 1) + 0.5)  # lengths of embeddings count for nothing
        lengths = plain.backbone.item_embeddings().norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, scale))


def test_core_leaves_no_room_before_a_sessions_own_item():
    torch.manual_seed(0)
    model = CORE(9, 8).eval()
    scores = model.query(model(*pad([[4], [7]])).long) @ model.item_embeddings().T
    assert scores.argmax(1).tolist() == [3, 6]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["core", "niser", "lessr", "atten-mixer", "hide", "msgat", "kmvg"])
def test_8_bit_tables_find_and_score_the_same_items(tmp_path, name):
    pytest.importorskip("onnxruntime")
    model = toy_model(backbone=name, fuser="catalogue")
    exporter, spec = registry.create("exporters", "onnx"), toy_spec("intents")._replace(precision="int8")
    exporter.export(model, {}, tmp_path / "model.onnx", spec=spec)
    scorer = exporter.load(tmp_path / "model.onnx")
    for sessions in ([[3]], [[1, 2, 3], [4]], [[7, 7, 2, 7], list(range(1, 20))]):
        inputs = toy_inputs(sessions, "intents")
        ids, scores = scorer.score(**inputs)
        full = model(inputs["items"], inputs["mask"], inputs["intents"])
        torch.testing.assert_close(scores, full.topk(spec.k).values, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(full.gather(1, ids - 1), scores, atol=1e-4, rtol=1e-4)
