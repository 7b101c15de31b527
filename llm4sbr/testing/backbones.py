"""The contract of backbones; subclass `BackboneContract` in a plugin's tests.

class TestMine(BackboneContract):
    name = "my-backbone"
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor
from torch.export import Dim

from llm4sbr import config, registry
from llm4sbr.data import prepared as stored
from llm4sbr.data.batches import Batch, collate, sample_keys
from llm4sbr.evaluation.metrics import ranks
from llm4sbr.fusion.losses import joint_loss
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.protocols import Backbone, CatalogueFuser, Horizon, Samples
from llm4sbr.stages.train import TrainingJob, train_job
from llm4sbr.store import read_tensors
from llm4sbr.testing.contract import Contract, optional
from llm4sbr.testing.parts import check_part
from llm4sbr.testing.toy import toy_sessions
from llm4sbr.testing.toy_run import toy_run

ITEMS = 20
DIM = 16
SESSIONS = [[3], [1, 2, 3, 4, 5], [7, 7, 7], [2, 9, 2, 9, 4, 2], [5, 20]]
"""One click, all items different, one item repeated, a cycle, the last item of the catalogue."""

TEXT_DIM = 8
"""E, for models with a fuser."""

HORIZONS: tuple[tuple[Horizon, ...], ...] = (("long",), ("long", "short"), ("long", "short") * 2)
"""1, 2 and 4 perspectives."""

OTHER_SHAPES = ([[3]], [[1, 2, 3], [4]], [list(range(1, 20))] * 7)
"""Batches of other shapes than `SESSIONS`, which an exported model has to score too."""

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages that the export to ONNX needs."""


def pad(sessions: list[list[int]], *, width: int = 0) -> tuple[Tensor, Tensor]:
    """Sessions as items int64 (B, T) and mask bool (B, T), where T is at least `width`."""
    width = max(width, *map(len, sessions))
    items = torch.tensor([session + [0] * (width - len(session)) for session in sessions])
    return items, items > 0


class BackboneContract(Contract, kind="backbones"):
    """Tests of one backbone; `name` is its installed name."""

    tolerance = 1e-5
    """Maximum difference of a score due to padding or to the other sessions of the batch."""

    def model(self) -> LLM4SBR:
        """A model without fuser, whose backbone is fitted on toy sessions."""
        torch.manual_seed(0)
        model = build(self.recipe())
        model.backbone.fit(toy_sessions(items=ITEMS))
        return model

    def recipe(self) -> Recipe:
        """The recipe that `model` is built from."""
        return Recipe(ITEMS, DIM, self.name)

    def fused(self, fuser: str = "gated", horizons: tuple[Horizon, ...] = ("long", "short")) -> LLM4SBR:
        """A model with a fuser and one perspective per horizon, fitted on toy sessions."""
        torch.manual_seed(0)
        model = build(self.fused_recipe(fuser, horizons))
        model.backbone.fit(toy_sessions(items=ITEMS))
        if isinstance(model.fuser, CatalogueFuser):
            model.fuser.fit(torch.randn(ITEMS, TEXT_DIM), torch.arange(ITEMS))
        return model

    def fused_recipe(self, fuser: str, horizons: tuple[Horizon, ...]) -> Recipe:
        """The recipe that `fused` is built from."""
        return Recipe(*self.recipe()[:4], fuser, {}, horizons, horizons, TEXT_DIM)

    def each_fused(self) -> Iterator[tuple[LLM4SBR, Tensor]]:
        """Yield models with each of our own fusers and 1, 2 and 4 perspectives, and intents (B, P, E).

        Fusers of plugins are left out: one that ignores the backbone's scores would leave parameters of the
        backbone without gradient, which is not the backbone's fault.
        """
        for fuser in (c for c in registry.components("fusers") if c.package == registry.CORE):
            for horizons in HORIZONS:
                model = self.fused(f"{fuser.package}:{fuser.name}", horizons)
                yield model, torch.randn(len(SESSIONS), len(horizons), TEXT_DIM)

    def test_satisfies_the_protocol(self) -> None:
        """It has the members of the protocol and is an `nn.Module`."""
        backbone = self.model().backbone
        assert isinstance(backbone, Backbone), "needs fit, item_embeddings and forward"
        assert isinstance(backbone, torch.nn.Module), "must be an nn.Module"

    def test_shapes_and_types(self) -> None:
        """Results are float32: two session vectors (B, D), item embeddings (N, D), scores (B, N)."""
        model = self.model().eval()
        encoded = model.backbone(*pad(SESSIONS))
        assert encoded.long.shape == encoded.short.shape == (len(SESSIONS), DIM)
        assert model.backbone.item_embeddings().shape == (ITEMS, DIM)
        assert encoded.auxiliary is None or encoded.auxiliary.shape == ()
        scores = model(*pad(SESSIONS))
        assert scores.shape == (len(SESSIONS), ITEMS)
        types = {"long": encoded.long.dtype, "short": encoded.short.dtype, "scores": scores.dtype}
        assert set(types.values()) == {torch.float32}, types

    def test_every_score_is_a_number(self) -> None:
        """Scores and gradients are finite for one click, for one item many times, and for a cycle."""
        model = self.model().train()
        for session in SESSIONS:
            scores = model(*pad([session]))
            assert scores.isfinite().all(), f"session {session}: scores that are not finite"
            model.zero_grad()
            scores.logsumexp(1).sum().backward()
            wrong = [
                n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
            ]
            assert wrong == [], f"session {session}: gradients that are not finite"

    def test_inputs_stay_as_they_are(self) -> None:
        """`fit` does not modify the sessions, `forward` does not modify items and mask."""
        model, sessions = self.model(), toy_sessions(items=ITEMS)
        model.backbone.fit(sessions)
        for given, found in zip(toy_sessions(items=ITEMS), sessions, strict=True):
            assert torch.equal(given, found), "fit wrote into the training sessions"
        items, mask = pad(SESSIONS)
        model(items, mask)
        assert torch.equal(items, pad(SESSIONS)[0]), "forward wrote into items"
        assert torch.equal(mask, pad(SESSIONS)[1]), "forward wrote into mask"

    def test_padding_does_not_matter(self) -> None:
        """Scores depend neither on the width of the batch nor on the items where the mask is false."""
        model = self.model().eval()
        expected = model(*pad(SESSIONS))
        items, mask = pad(SESSIONS, width=13)
        self._same(model(items, mask), expected, "padded to 13 clicks")
        self._same(model(torch.where(mask, items, 7), mask), expected, "with other items at padding")

    def test_company_and_order_do_not_matter(self) -> None:
        """Scores depend neither on the other sessions of the batch nor on their order."""
        model = self.model().eval()
        expected = model(*pad(SESSIONS))
        alone = torch.cat([model(*pad([session])) for session in SESSIONS])
        backwards = model(*pad(SESSIONS[::-1])).flip(0)
        self._same(alone, expected, "alone")
        self._same(backwards, expected, "in a batch in reverse order")

    def _same(self, found: Tensor, expected: Tensor, how: str) -> None:
        """Check that two results (B, N) for `SESSIONS` agree."""
        for session, one, other in zip(SESSIONS, found, expected, strict=True):
            close = torch.allclose(one, other, atol=self.tolerance, rtol=self.tolerance)
            worst = (one - other).abs()
            item = int(worst.argmax()) + 1
            assert close, f"session {session} {how}: the score of item {item} differs by {worst.max():.2g}"

    def test_sessions_are_told_apart(self) -> None:
        """Another last click, other scores (a Markov chain looks no further back)."""
        scores = self.model().eval()(*pad([[1, 2, 3], [1, 2, 4]]))
        assert not torch.allclose(scores[0], scores[1], atol=1e-4), "[1, 2, 3] and [1, 2, 4] score the same"

    def test_gradient_reaches_every_parameter(self) -> None:
        """After a backward pass, every parameter has a gradient that is not zero."""
        model = self.model().train()
        losses = joint_loss(model.represent(*pad(SESSIONS)), torch.tensor([1, 2, 3, 4, 5]), tau=0.1)
        losses.total.backward()  # type: ignore[no-untyped-call]
        assert _idle(model) == [], "no gradient reaches these"

    def test_fused_with_every_fuser(self) -> None:
        """With 1, 2 and 4 perspectives, scores (B, N) are finite and every parameter gets a gradient."""
        for model, intents in self.each_fused():
            output = model.train().represent(*pad(SESSIONS), intents)
            assert output.scores.shape == (len(SESSIONS), ITEMS)
            assert output.scores.isfinite().all()
            losses = joint_loss(output, torch.tensor([1, 2, 3, 4, 5]), tau=0.1)
            losses.total.backward()  # type: ignore[no-untyped-call]
            how = f"{type(model.fuser).__name__} with {len(model.horizons)} perspectives"
            assert _idle(model) == [], f"{how}: no gradient reaches these"

    def test_fused_with_missing_intents(self) -> None:
        """No intents equal zero intents, and a session's scores depend on its own intents only."""
        for model, intents in self.each_fused():
            model.eval()
            full = model(*pad(SESSIONS), intents)
            assert torch.equal(model(*pad(SESSIONS)), model(*pad(SESSIONS), torch.zeros_like(intents)))
            intents[0] = 0
            partly = model(*pad(SESSIONS), intents)
            torch.testing.assert_close(partly[1:], full[1:], atol=self.tolerance, rtol=self.tolerance)
            assert (partly[0] - full[0]).abs().max() > 1e-3 * full[0].std()

    def test_same_seed_same_model(self, tmp_path: Path) -> None:
        """With the same seed, scores (also under dropout) and saved files are identical to the last bit."""
        found = []
        for folder in (tmp_path / "one", tmp_path / "other"):
            model = self.model().train()
            scores = torch.cat([model(*pad(SESSIONS)), model.eval()(*pad(SESSIONS))])
            save_model(folder, model, recipe=self.recipe(), catalogue="c", facts={})
            found.append((scores.tolist(), {file.name: file.read_bytes() for file in folder.iterdir()}))
        assert found[0][0] == found[1][0], "with one seed, two models score differently"
        assert found[0][1] == found[1][1], "with one seed, two models are saved differently"

    def test_scoring_leaves_no_trace(self) -> None:
        """Scoring changes neither the model nor later scores."""
        model = self.model().eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        expected = model(*pad(SESSIONS))
        for sessions in OTHER_SHAPES:
            model(*pad(sessions))
        after = model.state_dict()
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert changed == [], "scoring changed these tensors"
        assert torch.equal(model(*pad(SESSIONS)), expected), "the same sessions score differently afterwards"

    def test_test_sessions_leave_no_trace(self, tmp_path: Path) -> None:
        """Other test sessions lead to the same trained model: graphs come from training sessions only."""
        toy_run(tmp_path / "run", items=ITEMS, sources=())
        data = stored.load(tmp_path / "run" / "prepare")
        first = int(data.samples["test"].start.min())
        items = data.sessions.items.clone()
        items[first:] = items[first:] % ITEMS + 1
        other = data._replace(sessions=data.sessions._replace(items=items))
        count = len(data.sessions.offsets) - 1
        (tmp_path / "other" / "prepare").mkdir(parents=True)
        names, times = pl.Series(["s"] * count), pl.Series([0.0] * count)
        stored.save(tmp_path / "other" / "prepare", other, names=names, times=times)
        one, two = (self._trained(tmp_path / name) for name in ("run", "other"))
        changed = [
            name
            for name in one
            if one[name].shape != two[name].shape or not torch.equal(one[name], two[name])
        ]
        assert changed == [], "test sessions changed these tensors"

    def _trained(self, run: Path) -> dict[str, Tensor]:
        """The weights and graphs of a plain model, trained in a run for one epoch."""
        options = self.recipe().backbone_options
        chosen = {"backbone": self.name, "options": options, "dim": DIM, "epochs": 1, "device": "cpu"}
        job = TrainingJob(run, run / "model", config.build({"train": chosen}), "plain", 0)
        train_job(job, lambda count, note: None)
        return read_tensors(run / "model" / "model.safetensors")

    @optional("export")
    def test_can_be_traced(self) -> None:
        """`torch.export` can trace it for any number of sessions."""
        model, (items, mask) = self.fused().eval(), pad(SESSIONS)
        intents = torch.randn(len(SESSIONS), 2, TEXT_DIM)
        any_batch = {0: Dim.AUTO}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own recurrent layers
            program = torch.export.export(model, (items, mask, intents), dynamic_shapes=(any_batch,) * 3)
        fewer = (items[:2], mask[:2], intents[:2])
        torch.testing.assert_close(program.module()(*fewer), model(*fewer))

    @optional("export")
    def test_exports_to_onnx(self, tmp_path: Path) -> None:
        """An ONNX graph gives the model's scores for any batch shape; skipped if ONNX is not installed."""
        *_, runtime = (pytest.importorskip(name, reason=f"needs {', '.join(NEEDED)}") for name in NEEDED)
        model = self.fused().eval()
        _export(model, tmp_path / "model.onnx")
        session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        for sessions in OTHER_SHAPES:
            items, mask = pad(sessions)
            intents = torch.randn(len(sessions), 2, TEXT_DIM)
            inputs = {"items": items.numpy(), "mask": mask.numpy(), "intents": intents.numpy()}
            found = torch.from_numpy(session.run(None, inputs)[0])
            torch.testing.assert_close(found, model(items, mask, intents), atol=1e-5, rtol=1e-5)

    def test_saved_model_scores_the_same(self, tmp_path: Path) -> None:
        """A loaded model needs no `fit`: what was computed from data is in the file."""
        model = self.model().eval()
        save_model(tmp_path, model, recipe=self.recipe(), catalogue="c", facts={})
        loaded = load_model(tmp_path).model(*pad(SESSIONS))
        assert torch.equal(loaded, model(*pad(SESSIONS))), "the loaded model scores differently"

    @optional("sampled")
    def test_on_a_part_of_the_catalogue(self) -> None:
        """With the rows of some items in the place of the tables, these items score as before."""
        recipe, intents = self.fused_recipe("whitened", HORIZONS[1]), torch.randn(len(SESSIONS), 2, TEXT_DIM)
        check_part(self.model(), self.recipe(), *pad(SESSIONS), None)
        check_part(self.fused("whitened"), recipe, *pad(SESSIONS), intents)

    def test_learns_a_rule(self) -> None:
        """If item i + 1 always follows item i, the model soon ranks it first for 90% of the samples.

        With `own_items_first`, the session's own items are left out of the ranking.
        """
        model = self.model()
        own_first = getattr(model.backbone, "own_items_first", False)
        batch = _walks(2 if own_first else 1)
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        best = 0.0
        for step in range(400):
            optimizer.zero_grad()
            loss = joint_loss(model.train().represent(batch.items, batch.mask), batch.target, tau=0.1).total
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % 25 == 24:
                scores = model.eval()(batch.items, batch.mask).detach()
                if own_first:
                    clicked = torch.where(batch.mask, batch.items, batch.items[:, :1]) - 1
                    scores = scores.scatter(1, clicked, -torch.inf)
                best = float((ranks(scores, batch.target) == 1).float().mean())
                if best >= 0.9:
                    return
        raise AssertionError(f"only {best:.0%} of the next items are ranked first")


def _walks(shortest: int) -> Batch:
    """One sample of each toy session, with a prefix of `shortest` to 5 clicks."""
    sessions = toy_sessions(items=ITEMS)
    first = sessions.offsets[:-1]
    number = torch.arange(len(first))
    number += number // ITEMS  # so that sessions that start with the same item have different targets
    end = first + number % (6 - shortest) + shortest
    samples = Samples(first, end, sample_keys(sessions, first, end))
    return collate(sessions, samples, torch.arange(len(first)))


def _idle(model: torch.nn.Module) -> list[str]:
    """Names of the parameters whose gradient is missing or zero."""
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def _export(model: LLM4SBR, path: Path) -> None:
    """Export a model with a fuser to ONNX, with dynamic batch size and session length."""
    sessions = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of torch's exporter
        program = torch.onnx.export(
            model,
            (*pad(SESSIONS), torch.randn(len(SESSIONS), 2, TEXT_DIM)),
            dynamo=True,
            opset_version=20,
            verbose=False,
            optimize=False,
            input_names=("items", "mask", "intents"),
            dynamic_shapes=(sessions, sessions, {0: Dim.DYNAMIC}),
        )
    assert program is not None
    program.save(path)
