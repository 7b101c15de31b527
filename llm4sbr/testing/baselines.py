"""The contract of baselines; subclass `BaselineContract` in a plugin's tests.

class TestMine(BaselineContract):
    name = "my-baseline"
"""

from __future__ import annotations

import torch

from llm4sbr import registry
from llm4sbr.evaluation.asked import asking
from llm4sbr.protocols import Baseline
from llm4sbr.testing.backbones import ITEMS, OTHER_SHAPES, SESSIONS, pad
from llm4sbr.testing.contract import Contract, if_offered
from llm4sbr.testing.toy import toy_catalogue, toy_sessions


class BaselineContract(Contract, kind="baselines"):
    """Tests of one baseline; `name` is its installed name."""

    def baseline(self) -> Baseline:
        """The baseline, fitted on toy sessions."""
        baseline: Baseline = registry.create("baselines", self.name, num_items=ITEMS)
        baseline.fit(toy_sessions(items=ITEMS))
        if getattr(baseline, "needs_text", False):
            vectors = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(0))
            baseline.fit_text(vectors)  # type: ignore[attr-defined]
        if asking(baseline):
            baseline.fit_catalogue(toy_catalogue(ITEMS), repeats=False)
        return baseline

    def test_satisfies_the_protocol(self) -> None:
        """It has the members of the protocol."""
        assert isinstance(self.baseline(), Baseline), "needs fit and score"

    def test_shape_and_type(self) -> None:
        """Scores are float32 (B, N) and finite."""
        scores = self.baseline().score(*pad(SESSIONS))
        assert scores.shape == (len(SESSIONS), ITEMS)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()

    def test_padding_and_company_do_not_matter(self) -> None:
        """Scores do not depend on the rest of the batch, its width, or items where the mask is false."""
        baseline = self.baseline()
        expected = baseline.score(*pad(SESSIONS))
        items, mask = pad(SESSIONS, width=13)
        for row, session in enumerate(SESSIONS):
            alone = baseline.score(*pad([session]))[0]
            assert torch.allclose(alone, expected[row]), f"session {session} scores differently alone"
            wide = baseline.score(items, mask)[row]
            assert torch.allclose(wide, expected[row]), f"session {session} scores differently padded"
            noise = baseline.score(torch.where(mask, items, 7), mask)[row]
            assert torch.allclose(noise, expected[row]), f"session {session}: items at padding change scores"

    def test_inputs_stay_as_they_are(self) -> None:
        """`fit` does not modify the sessions, `score` does not modify items and mask."""
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
        """Scoring does not change later scores: only training sessions are learned from."""
        baseline = self.baseline()
        expected = baseline.score(*pad(SESSIONS)).clone()
        for sessions in OTHER_SHAPES:
            baseline.score(*pad(sessions))
        again = baseline.score(*pad(SESSIONS))
        assert torch.equal(again, expected), "the same sessions score differently after others were scored"

    def test_fitting_again_starts_anew(self) -> None:
        """A second `fit` replaces the first: the scores equal those of a new baseline."""
        baseline = self.baseline()
        baseline.fit(toy_sessions(items=ITEMS))
        fresh = self.baseline().score(*pad(SESSIONS))
        if asking(baseline):
            baseline.fit_catalogue(toy_catalogue(ITEMS), repeats=False)
        assert torch.equal(baseline.score(*pad(SESSIONS)), fresh), "fitted twice, it scores differently"

    @if_offered("asks")
    def test_questions(self) -> None:
        """Of what asks an LLM: prompts are texts that depend on the session alone, titles in them.

        Any answers, empty or senseless, give finite scores float32 (N,), and leave no trace in later ones.
        """
        baseline, twin = self.baseline(), self.baseline()
        assert asking(baseline), "needs fit_catalogue, prompts and rescored"
        assert asking(twin)
        before = baseline.score(*pad(SESSIONS)).clone()
        for session in SESSIONS:
            prompts = baseline.prompts(session)
            assert prompts, "no prompt"
            assert prompts == twin.prompts(session), "the same session has other prompts"
            assert all(toy_catalogue(ITEMS).titles[session[-1] - 1] in text for text in prompts), "no title"
            for answer in ("", "-0.1 -2.0", "A", "C, B", "5", "lamp; chair", "\x00 \u2028 \U0001f600"):
                scores = baseline.rescored(session, [answer] * len(prompts))
                assert scores.shape == (ITEMS,), "rescored gives (N,)"
                assert scores.dtype == torch.float32
                assert scores.isfinite().all(), f"{answer!r} gives scores that are not finite"
        assert torch.equal(baseline.score(*pad(SESSIONS)), before), "answers change what `score` says"
