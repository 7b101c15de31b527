"""The contract of localizers; subclass `LocalizerContract` in a plugin's tests.

class TestMine(LocalizerContract):
create = staticmethod(lambda f: MyLocalizer(f=f))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llm4sbr.protocols import Catalogue, Localization, Localizer, Sessions
from llm4sbr.testing.contract import Contract, if_offered

CATALOGUE = Catalogue(
    ["a", "b", "c", "d"], ["Red Lamp (1990)", "Green Chair (1991)", "Red Lamp, The (1992)", "Blue Table"]
)
ANSWERS = ["Green Chair", "", "Blue Table", "lamp", "Green Chair", "something that nobody sells"]


class LetterEncoder:
    """A small text encoder: counts pairs of adjacent letters, hashed into `dim` elements."""

    fingerprint = "letters"

    def __init__(self, dim: int = 64) -> None:
        self.dim = dim

    def encode(self, texts: Sequence[str]) -> Tensor:
        """float32 (len(texts), E)."""
        vectors = torch.zeros(len(texts), self.dim)
        for row, text in enumerate(texts):
            for pair in zip(text.lower(), text.lower()[1:], strict=False):
                vectors[row, hashlib.sha256("".join(pair).encode()).digest()[0] % self.dim] += 1
        return vectors


class LocalizerContract(Contract, kind="localizers"):
    """Tests of one localizer; if it has `fit`, it is fitted first, on other answers and some sessions."""

    create: Callable[[int], Localizer]
    """Creates the localizer for f items per answer."""

    def component(self) -> Localizer:
        """The localizer, whose attributes such as `lacks` are read."""
        return self.create(2)

    def made(self, f: int) -> Localizer:
        """A localizer that is ready to use."""
        localizer = self.create(f)
        if hasattr(localizer, "fit"):
            sessions = Sessions(torch.tensor([1, 2, 3, 4, 2, 1]), torch.tensor([0, 3, 6]))
            answers = ["Green Chair", "Blue Table", "Blue Table", "chair"]
            asked = getattr(localizer, "needs_targets", False)
            targets = {"targets": torch.tensor([2, 4, 4, 2]).repeat(20)} if asked else {}
            answers *= 20 if asked else 1
            localizer.fit(answers, sessions, CATALOGUE, LetterEncoder(), **targets)
        return localizer

    def located(
        self, localizer: Localizer, answers: Sequence[str], catalogue: Catalogue = CATALOGUE
    ) -> Localization:
        """Localize answers; with `needs_sessions`, equal answers get equal sessions."""
        if not getattr(localizer, "needs_sessions", False):
            return localizer.localize(answers, catalogue, LetterEncoder())
        rows = [
            [len(answer) % CATALOGUE.size + 1, len(answer) // 2 % CATALOGUE.size + 1] for answer in answers
        ]
        sessions = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
        return localizer.localize(answers, catalogue, LetterEncoder(), sessions=sessions)  # type: ignore[call-arg]

    def test_satisfies_the_protocol(self) -> None:
        """It has the members of the protocol."""
        assert isinstance(self.create(2), Localizer), "needs localize"

    def test_shapes_and_types(self) -> None:
        """Results for M answers: items int64 (M, F), weights float32 (M, F), embeddings float32 (M, E)."""
        for f in (0, 1, 3):
            found = self.located(self.made(f), ANSWERS)
            assert found.items.shape == found.weights.shape == (len(ANSWERS), f), f"with f = {f}"
            assert found.embeddings.shape == (len(ANSWERS), LetterEncoder().dim), f"with f = {f}"
            assert found.items.dtype == torch.int64
            assert found.weights.dtype == found.embeddings.dtype == torch.float32
            assert found.embeddings.isfinite().all(), f"with f = {f}, values that are not finite"

    def test_items_are_real_and_weights_are_shares(self) -> None:
        """Ids are 1..N, or 0 with weight 0; the weights of an answer sum to 1 or are all 0."""
        found = self.located(self.made(3), ANSWERS)
        for answer, items, weights in zip(ANSWERS, found.items.tolist(), found.weights, strict=True):
            assert all(0 <= item <= CATALOGUE.size for item in items), f"{answer!r}: items {items}"
            real = [item for item in items if item]
            assert len(set(real)) == len(real), f"{answer!r}: an item occurs twice in {items}"
            assert (weights >= 0).all(), f"{answer!r}: weights {weights.tolist()}"
            idle = [w for item, w in zip(items, weights.tolist(), strict=True) if not item and w]
            assert idle == [], f"{answer!r}: id 0 has the weight {idle}"
            total = float(weights.sum())
            assert abs(total - (total > 0)) < 1e-5, f"{answer!r}: the weights sum to {total:.3f}"

    def test_best_first(self) -> None:
        """The weights of an answer descend, and ids of 0 come last."""
        found = self.located(self.made(3), ANSWERS)
        for answer, items, weights in zip(ANSWERS, found.items, found.weights, strict=True):
            assert (weights.diff() <= 1e-6).all(), f"{answer!r}: weights {weights.tolist()} are not sorted"
            assert ((items > 0).int().diff() <= 0).all(), f"{answer!r}: 0 before an item: {items.tolist()}"

    def test_an_empty_answer_is_a_zero_row(self) -> None:
        """An empty answer has no items, no weights and a zero embedding."""
        for f in (0, 2):
            found = self.located(self.made(f), ["", "Blue Table", " "])
            for name, part in found._asdict().items():
                assert not part[0].any(), f'"" has {name}'
                assert not part[2].any(), f'" " has {name}'
            assert found.embeddings[1].any(), "next to an empty answer, 'Blue Table' has a zero embedding"

    def test_no_answers_at_all(self) -> None:
        """Without answers, or with empty ones only, the shapes are still right."""
        width = LetterEncoder().dim
        found = self.located(self.made(2), [])
        assert [tuple(part.shape) for part in found] == [(0, 2), (0, 2), (0, width)]
        found = self.located(self.made(2), ["", ""])
        assert [tuple(part.shape) for part in found] == [(2, 2), (2, 2), (2, width)]

    def test_inputs_stay_as_they_are(self) -> None:
        """`localize` modifies neither the answers nor the catalogue."""
        answers, titles = list(ANSWERS), list(CATALOGUE.titles)
        self.located(self.made(2), answers, CATALOGUE._replace(titles=titles))
        assert answers == ANSWERS, "localize changed the answers"
        assert titles == CATALOGUE.titles, "localize changed the catalogue"

    def test_repeatable(self) -> None:
        """Two localizers created in the same way give the same result."""
        one, two = (self.located(self.made(2), ANSWERS) for _ in range(2))
        for name, first, second in zip(one._fields, one, two, strict=True):
            assert torch.equal(first, second), f"{name} differ"

    def test_rows_do_not_depend_on_each_other(self) -> None:
        """The result for an answer does not depend on the other answers."""
        localizer = self.made(2)
        together = self.located(localizer, ANSWERS)
        for row, answer in enumerate(ANSWERS):
            alone = self.located(localizer, [answer])
            assert torch.equal(together.items[row], alone.items[0]), f"{answer!r}: other items alone"
            for name in ("weights", "embeddings"):
                one, other = getattr(together, name)[row], getattr(alone, name)[0]
                assert torch.allclose(one, other, atol=1e-5, rtol=0), f"{answer!r}: other {name} alone"

    @if_offered("facts")
    def test_facts_can_be_written_down(self) -> None:
        """`facts` can be written as JSON."""
        localizer = self.made(2)
        self.located(localizer, ANSWERS)
        json.dumps(localizer.facts)  # type: ignore[attr-defined]
