"""What every baseline must do; subclass `BaselineContract` in a plugin's tests.

class TestMine(BaselineContract):
    name = "my-baseline"
"""

from __future__ import annotations

import torch

from llm4sbr import registry
from llm4sbr.protocols import Baseline
from llm4sbr.testing.backbones import ITEMS, SESSIONS, pad
from llm4sbr.testing.toy import toy_sessions


class BaselineContract:
    """Tests of one baseline."""

    name: str
    """Its installed name."""

    def baseline(self) -> Baseline:
        """The baseline, fitted on toy sessions."""
        baseline: Baseline = registry.create("baselines", self.name, num_items=ITEMS)
        baseline.fit(toy_sessions(items=ITEMS))
        return baseline

    def test_satisfies_the_protocol(self) -> None:
        """It has the members."""
        assert isinstance(self.baseline(), Baseline)

    def test_shape_and_type(self) -> None:
        """float32 (B, N), finite."""
        scores = self.baseline().score(*pad(SESSIONS))
        assert scores.shape == (len(SESSIONS), ITEMS)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()

    def test_padding_and_company_do_not_matter(self) -> None:
        """A session scores the same alone and in a wider batch."""
        baseline = self.baseline()
        expected = baseline.score(*pad(SESSIONS))
        torch.testing.assert_close(baseline.score(*pad(SESSIONS, width=13)), expected)
        torch.testing.assert_close(torch.cat([baseline.score(*pad([one])) for one in SESSIONS]), expected)

    def test_inputs_stay_as_they_are(self) -> None:
        """Scoring writes into neither items nor mask."""
        items, mask = pad(SESSIONS)
        before = items.clone(), mask.clone()
        self.baseline().score(items, mask)
        assert torch.equal(items, before[0])
        assert torch.equal(mask, before[1])

    def test_fitting_again_starts_anew(self) -> None:
        """Fitted twice, it scores as if fitted once; two of them agree."""
        baseline = self.baseline()
        baseline.fit(toy_sessions(items=ITEMS))
        assert torch.equal(baseline.score(*pad(SESSIONS)), self.baseline().score(*pad(SESSIONS)))
