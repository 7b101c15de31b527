"""What every baseline must do; subclass `BaselineContract` in a plugin's tests.

class TestMine(BaselineContract):
    name = "my-baseline"
"""

from __future__ import annotations

import torch

from llm4sbr import registry
from llm4sbr.protocols import Baseline
from llm4sbr.testing.backbones import ITEMS, OTHER_SHAPES, SESSIONS, pad
from llm4sbr.testing.contract import Contract
from llm4sbr.testing.toy import toy_sessions


class BaselineContract(Contract, kind="baselines"):
    """Tests of one baseline; `name` is its installed name."""

    def baseline(self) -> Baseline:
        """The baseline, fitted on toy sessions."""
        baseline: Baseline = registry.create("baselines", self.name, num_items=ITEMS)
        baseline.fit(toy_sessions(items=ITEMS))
        return baseline

    def test_satisfies_the_protocol(self) -> None:
        """It has the members."""
        assert isinstance(self.baseline(), Baseline), "needs fit and score"

    def test_shape_and_type(self) -> None:
        """float32 (B, N), finite."""
        scores = self.baseline().score(*pad(SESSIONS))
        assert scores.shape == (len(SESSIONS), ITEMS)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()

    def test_padding_and_company_do_not_matter(self) -> None:
        """A session scores the same alone and in a wider batch, whatever the masked items are."""
        baseline = self.baseline()
        expected = baseline.score(*pad(SESSIONS))
        items, mask = pad(SESSIONS, width=13)
        for row, session in enumerate(SESSIONS):
            alone = baseline.score(*pad([session]))[0]
            assert torch.allclose(alone, expected[row]), f"session {session} scores differently alone"
            wide = baseline.score(items, mask)[row]
            assert torch.allclose(wide, expected[row]), f"session {session} scores differently padded"
            noise = baseline.score(torch.where(mask, items, 7), mask)[row]
            assert torch.allclose(noise, expected[row]), f"session {session}: masked items count"

    def test_inputs_stay_as_they_are(self) -> None:
        """Fitting does not write into the sessions, nor scoring into items and mask."""
        baseline, sessions = self.baseline(), toy_sessions(items=ITEMS)
        baseline.fit(sessions)
        for given, found in zip(toy_sessions(items=ITEMS), sessions, strict=True):
            assert torch.equal(given, found), "fit wrote into the training sessions"
        items, mask = pad(SESSIONS)
        before = items.clone(), mask.clone()
        baseline.score(items, mask)
        assert torch.equal(items, before[0]), "score wrote into items"
        assert torch.equal(mask, before[1]), "score wrote into mask"

    def test_scoring_leaves_no_trace(self) -> None:
        """Only training sessions are learned from: what was scored before changes no later scores."""
        baseline = self.baseline()
        expected = baseline.score(*pad(SESSIONS)).clone()
        for sessions in OTHER_SHAPES:
            baseline.score(*pad(sessions))
        again = baseline.score(*pad(SESSIONS))
        assert torch.equal(again, expected), "the same sessions score differently after others were scored"

    def test_fitting_again_starts_anew(self) -> None:
        """Fitted twice, it scores as if fitted once; two of them agree."""
        baseline = self.baseline()
        baseline.fit(toy_sessions(items=ITEMS))
        fresh = self.baseline().score(*pad(SESSIONS))
        assert torch.equal(baseline.score(*pad(SESSIONS)), fresh), "fitted twice, it scores differently"
