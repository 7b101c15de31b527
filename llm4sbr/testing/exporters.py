"""The contract of exporters; subclass `ExporterContract` in a plugin's tests.

class TestMine(ExporterContract):
    name = "my-format"
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llm4sbr import registry
from llm4sbr.errors import DeviceError, InputError
from llm4sbr.exporting import Exporter, ExportSpec
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.protocols import Horizon
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.contract import Contract

ITEMS, DIM, TEXT_DIM, K = 30, 8, 6, 5
HORIZONS: tuple[Horizon, ...] = ("long", "short")

SHAPES: tuple[list[list[int]], ...] = ([[3]], [[1, 2, 3], [4]], [[7, 7, 2], [5, 30], [9]])
"""Batches that an exported model has to score."""


def toy_model(backbone: str = "stamp", fuser: str | None = "gated", *, items: int = ITEMS) -> LLM4SBR:
    """A model with random weights of a fixed seed; with a fuser it also has a predictor."""
    torch.manual_seed(0)
    recipe = Recipe(items, DIM, backbone)
    if fuser:
        recipe = recipe._replace(
            fuser=fuser, perspectives=HORIZONS, horizons=HORIZONS, text_dim=TEXT_DIM, predictor=True
        )
    model = build(recipe)
    if model.rescores:
        titles = torch.nn.functional.normalize(torch.randn(items, TEXT_DIM), dim=1)
        model.fuser.fit(titles, torch.arange(items))  # type: ignore[union-attr]
    return model.eval()


def toy_spec(intent_mode: str, *, k: int = K, precision: str = "fp32") -> ExportSpec:
    """The specification that the exporter gets."""
    about = {"fingerprint": "f", "catalogue": "c", "variant": intent_mode, "k": str(k)}
    return ExportSpec(k, intent_mode, precision, 8, 20, about)


def toy_inputs(sessions: Sequence[Sequence[int]], intent_mode: str) -> dict[str, Tensor]:
    """The graph's inputs for sessions, with `exclude_seen` false."""
    items, mask = pad([list(session) for session in sessions])
    inputs = {"items": items, "mask": mask, "exclude_seen": torch.zeros(len(items), 1, dtype=torch.bool)}
    if intent_mode == "intents":
        inputs["intents"] = torch.randn(len(items), len(HORIZONS), TEXT_DIM)
    return inputs


class ExporterContract(Contract, kind="exporters"):
    """Tests of one exporter; `name` is its installed name.

    If it needs a device that this machine does not have, the tests are skipped with that reason.
    """

    def exporter(self) -> Exporter:
        """The exporter with default options."""
        made: Exporter = registry.create("exporters", self.name)
        return made

    def written(self, folder: Path, intent_mode: str) -> Path:
        """Export the toy model into a folder, and move the folder, as a deployment does."""
        exporter = self.exporter()
        path = folder / "made" / f"model{exporter.suffix}"
        path.parent.mkdir()
        model = toy_model(fuser=None if intent_mode == "plain" else "gated")
        try:
            exporter.export(model, toy_inputs(SHAPES[1], intent_mode), path, spec=toy_spec(intent_mode))
        except DeviceError as error:
            assert any(path.parent.iterdir()), "nothing was written that a machine with the device could use"
            pytest.skip(str(error))
        path.parent.rename(folder / "moved")
        return folder / "moved" / path.name

    def test_satisfies_the_protocol(self) -> None:
        """It has the members of the protocol and at least one precision."""
        exporter = self.exporter()
        assert isinstance(exporter, Exporter), "needs suffix, precisions, export and load"
        assert exporter.precisions, "precisions is empty"

    def test_answers_as_the_model(self, tmp_path: Path) -> None:
        """The best items and their scores are those of the model, also for batches of other shapes."""
        path = self.written(tmp_path, "intents")
        scorer, model = self.exporter().load(path), toy_model()
        for sessions in SHAPES:
            inputs = toy_inputs(sessions, "intents")
            ids, scores = scorer.score(**inputs)
            best = model(inputs["items"], inputs["mask"], inputs["intents"]).topk(K)
            assert torch.equal(ids, best.indices + 1), f"sessions {sessions}: other items than the model's"
            torch.testing.assert_close(scores, best.values, atol=1e-4, rtol=1e-4)

    def test_leaves_out_what_was_seen(self, tmp_path: Path) -> None:
        """The session's own items are excluded in rows where `exclude_seen` is true, and only there."""
        scorer = self.exporter().load(self.written(tmp_path, "plain"))
        inputs = toy_inputs([[1, 2, 3], [1, 2, 3]], "plain")
        full = toy_model(fuser=None)(inputs["items"], inputs["mask"])
        inputs["exclude_seen"] = torch.tensor([[True], [False]])
        ids, _ = scorer.score(**inputs)
        assert torch.equal(ids[1], full[1].topk(K).indices + 1), "excluded although exclude_seen is false"
        full[0, :3] = -torch.inf
        assert torch.equal(ids[0], full[0].topk(K).indices + 1), "not excluded although exclude_seen is true"

    def test_k_beyond_the_catalogue_is_refused(self, tmp_path: Path) -> None:
        """K above N raises `InputError` and leaves no file that looks finished."""
        exporter = self.exporter()
        path = tmp_path / f"model{exporter.suffix}"
        spec = toy_spec("plain", k=ITEMS + 1)
        with pytest.raises(InputError, match="k = 31"):
            exporter.export(toy_model(fuser=None), toy_inputs(SHAPES[1], "plain"), path, spec=spec)
        assert not path.exists(), f"{path.name} was written all the same"

    def test_a_failure_leaves_nothing_half_written(self, tmp_path: Path) -> None:
        """If the export fails, it leaves no file that looks finished."""
        exporter, model = self.exporter(), toy_model(fuser=None)
        path = tmp_path / f"model{exporter.suffix}"
        model.backbone.register_forward_pre_hook(_fail)  # type: ignore[attr-defined]
        with pytest.raises(Exception, match=r".") as caught:
            exporter.export(model, toy_inputs(SHAPES[1], "plain"), path, spec=toy_spec("plain"))
        assert not path.exists(), f"{path.name} was left behind after {type(caught.value).__name__}"


def _fail(*arguments: object) -> None:
    raise RuntimeError("a model that cannot be computed")
