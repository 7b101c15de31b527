"""The contract of fusers; subclass `FuserContract` in a plugin's tests.

class TestMine(FuserContract):
    name = "my-fuser"
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from llm4sbr import registry
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.protocols import CatalogueFuser, Fuser, Horizon
from llm4sbr.testing.contract import Contract, if_offered, optional
from llm4sbr.testing.parts import check_part

BATCH, DIM = 6, 16
ITEMS, TEXT_DIM = 9, 5
PERSPECTIVES = (1, 2, 3, 5)


class FuserContract(Contract, kind="fusers"):
    """Tests of one fuser; `name` is its installed name."""

    def fuser(self, perspectives: int) -> nn.Module:
        """A fuser with random weights of a fixed seed."""
        torch.manual_seed(0)
        options = {"dim": DIM, "perspectives": perspectives}
        if not getattr(registry.load("fusers", self.name), "needs_catalogue", False):
            return cast(nn.Module, registry.create("fusers", self.name, **options)).eval()
        fuser = registry.create("fusers", self.name, num_items=ITEMS, text_dim=TEXT_DIM, **options)
        fuser.fit(torch.randn(ITEMS, TEXT_DIM), torch.arange(ITEMS))
        return cast(nn.Module, fuser).eval()

    def inputs(self, perspectives: int) -> tuple[Tensor, Tensor]:
        """Behavioural and semantic vectors, float (B, P, D)."""
        torch.manual_seed(1)
        return torch.randn(BATCH, perspectives, DIM), torch.randn(BATCH, perspectives, DIM)

    def result(self, fuser: nn.Module, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """The fused vectors (B, D); of a `CatalogueFuser` the scores (B, N), with made-up intents."""
        fused: Tensor = fuser(behavioural, semantic)
        if not isinstance(fuser, CatalogueFuser):
            return fused
        scores = fuser.rescore(fused @ torch.ones(DIM, ITEMS), fused, self.intents(semantic))
        repeats: Tensor | None = getattr(fuser, "repeats", None)
        return scores if repeats is None else scores + repeats * (torch.arange(ITEMS) == 0)

    def intents(self, semantic: Tensor) -> Tensor:
        """Made-up intents, float (B, P, E), zero where `semantic` is zero."""
        return semantic[:, :, :TEXT_DIM] * 0.5

    def test_satisfies_the_protocol(self) -> None:
        """It can be called as the protocol says."""
        assert isinstance(self.fuser(2), Fuser), "must be called with two tensors"

    def test_shape_and_type(self) -> None:
        """Two inputs (B, P, D) give float32 (B, D), finite."""
        fused = self.fuser(2)(*self.inputs(2))
        assert fused.shape == (BATCH, DIM)
        assert fused.dtype == torch.float32
        assert fused.isfinite().all(), "values that are not finite"

    @optional("any-number")
    def test_any_number_of_perspectives(self) -> None:
        """It works for P = 1, 2, 3 and 5 perspectives, as given to its constructor."""
        for count in PERSPECTIVES:
            fused = self.fuser(count)(*self.inputs(count))
            assert fused.shape == (BATCH, DIM), f"with {count} perspectives"
            assert fused.isfinite().all(), f"with {count} perspectives"

    def test_repeatable(self) -> None:
        """The same inputs give the same vectors, and are not modified."""
        fuser, inputs = self.fuser(2), self.inputs(2)
        assert torch.equal(fuser(*inputs), fuser(*inputs)), "the same inputs gave two results"
        for name, given, found in zip(("behavioural", "semantic"), self.inputs(2), inputs, strict=True):
            assert torch.equal(given, found), f"forward wrote into {name}"

    def test_rows_are_independent(self) -> None:
        """A session's result does not depend on the other sessions of the batch."""
        fuser, (behavioural, semantic) = self.fuser(2), self.inputs(2)
        together = fuser(behavioural, semantic)
        alone = torch.cat([fuser(behavioural[i : i + 1], semantic[i : i + 1]) for i in range(BATCH)])
        rows = [i for i in range(BATCH) if not torch.allclose(together[i], alone[i], atol=1e-5, rtol=1e-5)]
        assert rows == [], "these sessions get another vector in a batch than alone"

    def test_both_sides_count(self) -> None:
        """The result depends on session vectors, and it, or losses that the fuser brings, on intents."""
        fuser, (behavioural, semantic) = self.fuser(2), self.inputs(2)
        fused = fuser(behavioural, semantic)
        other = fuser(behavioural.roll(1, 0), semantic)
        assert not torch.allclose(fused, other, atol=1e-3), "session vectors have no influence"
        if (agree := getattr(fuser, "agreement", None)) is not None:
            known = torch.ones(BATCH, 2, dtype=torch.bool)
            fused = agree(behavioural, semantic, known)[0]
            other = agree(behavioural, semantic.roll(1, 0), known)[0]
        else:
            other = fuser(behavioural, semantic.roll(1, 0))
        assert not torch.allclose(fused, other, atol=1e-4), "intents have no influence"

    def test_missing_intents(self) -> None:
        """Zero intents give finite results that differ between sessions, and do not affect other rows."""
        fuser, (behavioural, semantic) = self.fuser(2), self.inputs(2)
        without = fuser(behavioural, torch.zeros_like(semantic))
        assert without.isfinite().all(), "without intents, values that are not finite"
        assert torch.pdist(without).min() > 1e-3, "without intents, sessions get equal vectors"
        partly = semantic.clone()
        partly[0] = 0
        fused = fuser(behavioural, partly)
        close = torch.allclose(fused[0], without[0], atol=1e-5, rtol=1e-5)
        assert close, "the vector of a session without intents depends on other sessions' intents"
        rest = fuser(behavioural, semantic)[1:]
        close = torch.allclose(fused[1:], rest, atol=1e-5, rtol=1e-5)
        assert close, "one session without intents changes the others' vectors"

    def test_gradient_reaches_every_parameter(self) -> None:
        """Every parameter gets a gradient that is not zero; without intents, gradients are finite."""
        fuser, (behavioural, semantic) = self.fuser(3).train(), self.inputs(3)
        loss = self.result(fuser, behavioural, semantic).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        idle = [name for name, p in fuser.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert idle == [], "no gradient reaches these"
        loss = self.result(fuser, behavioural, torch.zeros_like(semantic)).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        wrong = [n for n, p in fuser.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert wrong == [], "without intents, gradients that are not finite"

    @optional("sampled")
    def test_on_a_part_of_the_catalogue(self) -> None:
        """With the rows of some items in the place of the tables, these items score as before."""
        torch.manual_seed(0)
        two: tuple[Horizon, ...] = ("long", "short")
        recipe = Recipe(ITEMS, DIM, "sr-gnn", fuser=self.name, perspectives=two, horizons=two)
        recipe = recipe._replace(text_dim=TEXT_DIM)
        model, items = build(recipe), torch.tensor([[1, 2, 3], [4, 1, 0]])
        if isinstance(model.fuser, CatalogueFuser):
            model.fuser.fit(torch.randn(ITEMS, TEXT_DIM), torch.arange(ITEMS))
        check_part(model, recipe, items, items > 0, torch.randn(2, 2, TEXT_DIM))

    @if_offered("rescore")
    def test_scores_of_text(self) -> None:
        """Scores of a `CatalogueFuser` are independent between rows, and no intents equal zero intents."""
        fuser, (behavioural, semantic) = self.fuser(2), self.inputs(2)
        assert isinstance(fuser, CatalogueFuser), "rescore goes with fit and needs_catalogue = True"
        semantic[0] = 0
        together = self.result(fuser, behavioural, semantic)
        assert together.shape == (BATCH, ITEMS)
        rows = [self.result(fuser, behavioural[[i]], semantic[[i]]) for i in range(BATCH)]
        torch.testing.assert_close(together, torch.cat(rows), atol=1e-5, rtol=1e-5)
        fused, scores = torch.randn(BATCH, DIM), torch.randn(BATCH, ITEMS)
        without = fuser.rescore(scores, fused, None)
        assert torch.equal(without, fuser.rescore(scores, fused, torch.zeros(BATCH, 2, TEXT_DIM)))
        assert not torch.allclose(without, fuser.rescore(scores, fused, self.intents(semantic.roll(1, 0))))
