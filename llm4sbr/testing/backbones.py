"""What every backbone must do; subclass `BackboneContract` in a plugin's tests.

class TestMine(BackboneContract):
    name = "my-backbone"
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from llm4sbr.data.batches import collate, sample_keys
from llm4sbr.fusion.losses import joint_loss
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.metrics import ranks
from llm4sbr.protocols import Backbone, Samples
from llm4sbr.testing.toy import toy_sessions

ITEMS = 20
DIM = 16
SESSIONS = [[3], [1, 2, 3, 4, 5], [7, 7, 7], [2, 9, 2, 9, 4, 2], [5, 20]]
"""One click, all different, one item only, a cycle, the last item of the catalogue."""


def pad(sessions: list[list[int]], *, width: int = 0) -> tuple[Tensor, Tensor]:
    """Sessions as items int64 (B, T) and mask bool (B, T), at least `width` wide."""
    width = max(width, *map(len, sessions))
    items = torch.tensor([session + [0] * (width - len(session)) for session in sessions])
    return items, items > 0


class BackboneContract:
    """Tests of one backbone."""

    name: str
    """Its installed name."""
    tolerance = 1e-5
    """Largest difference that padding or a session's company in a batch may make."""

    def model(self) -> LLM4SBR:
        """The backbone, fitted on toy sessions, as a plain model."""
        torch.manual_seed(0)
        model = build(self.recipe())
        model.backbone.fit(toy_sessions(items=ITEMS))
        return model

    def recipe(self) -> Recipe:
        """What `model` is built from."""
        return Recipe(ITEMS, DIM, self.name)

    def test_satisfies_the_protocol(self) -> None:
        """It has the members and is a module."""
        backbone = self.model().backbone
        assert isinstance(backbone, Backbone)
        assert isinstance(backbone, torch.nn.Module)

    def test_shapes(self) -> None:
        """(B, D), (B, D), item embeddings (N, D), scores (B, N), all finite."""
        model = self.model().eval()
        encoded = model.backbone(*pad(SESSIONS))
        assert encoded.long.shape == encoded.short.shape == (len(SESSIONS), DIM)
        assert model.backbone.item_embeddings().shape == (ITEMS, DIM)
        assert encoded.auxiliary is None or encoded.auxiliary.shape == ()
        scores = model(*pad(SESSIONS))
        assert scores.shape == (len(SESSIONS), ITEMS)
        assert scores.isfinite().all()

    def test_padding_does_not_matter(self) -> None:
        """The same scores however wide the batch, whatever the masked items are."""
        model = self.model().eval()
        expected = model(*pad(SESSIONS))
        items, mask = pad(SESSIONS, width=13)
        torch.testing.assert_close(model(items, mask), expected, atol=self.tolerance, rtol=self.tolerance)
        noise = torch.where(mask, items, 7)
        torch.testing.assert_close(model(noise, mask), expected, atol=self.tolerance, rtol=self.tolerance)

    def test_company_and_order_do_not_matter(self) -> None:
        """A session scores the same alone, in company, and wherever it stands."""
        model = self.model().eval()
        expected = model(*pad(SESSIONS))
        alone = torch.cat([model(*pad([session])) for session in SESSIONS])
        backwards = model(*pad(SESSIONS[::-1])).flip(0)
        torch.testing.assert_close(alone, expected, atol=self.tolerance, rtol=self.tolerance)
        torch.testing.assert_close(backwards, expected, atol=self.tolerance, rtol=self.tolerance)

    def test_sessions_are_told_apart(self) -> None:
        """Another last click, other scores (a Markov chain looks no further back)."""
        scores = self.model().eval()(*pad([[1, 2, 3], [1, 2, 4]]))
        assert not torch.allclose(scores[0], scores[1], atol=1e-4)

    def test_gradient_reaches_every_parameter(self) -> None:
        """Nothing is left untrained."""
        model = self.model().train()
        losses = joint_loss(model.represent(*pad(SESSIONS)), torch.tensor([1, 2, 3, 4, 5]), tau=0.1)
        losses.total.backward()  # type: ignore[no-untyped-call]
        idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert idle == []

    def test_same_seed_same_model(self) -> None:
        """Building, fitting and scoring repeat themselves exactly."""
        assert torch.equal(self.model().eval()(*pad(SESSIONS)), self.model().eval()(*pad(SESSIONS)))

    def test_saved_model_scores_the_same(self, tmp_path: Path) -> None:
        """A model read back needs no `fit`: what came from data is in the file."""
        model = self.model().eval()
        save_model(tmp_path, model, recipe=self.recipe(), catalogue="c", facts={})
        assert torch.equal(load_model(tmp_path).model(*pad(SESSIONS)), model(*pad(SESSIONS)))

    def test_learns_a_rule(self) -> None:
        """Item i is followed by item i + 1: certain after a few steps."""
        model = self.model().train()
        sessions = toy_sessions(items=ITEMS)
        first = sessions.offsets[:-1]
        end = first + torch.arange(len(first)) % 5 + 1
        samples = Samples(first, end, sample_keys(sessions, first, end))
        batch = collate(sessions, samples, torch.arange(len(first)))
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(150):
            optimizer.zero_grad()
            loss = joint_loss(model.represent(batch.items, batch.mask), batch.target, tau=0.1).total
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert (ranks(model.eval()(batch.items, batch.mask), batch.target) == 1).all()
