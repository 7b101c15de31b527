"""What every localizer must do; subclass `LocalizerContract` in a plugin's tests.

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
    """A stand-in for a text encoder: counts of letter pairs, hashed into `dim` places."""

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
    """Tests of one localizer. One that learns is fitted first, on answers and sessions of its own."""

    create: Callable[[int], Localizer]
    """Makes the localizer for f items per answer."""

    def component(self) -> Localizer:
        """One of them, to see what it claims."""
        return self.create(2)

    def made(self, f: int) -> Localizer:
        """A localizer, ready to use."""
        localizer = self.create(f)
        if hasattr(localizer, "fit"):
            sessions = Sessions(torch.tensor([1, 2, 3, 4, 2, 1]), torch.tensor([0, 3, 6]))
            localizer.fit(
                ["Green Chair", "Blue Table", "Blue Table", "chair"], sessions, CATALOGUE, LetterEncoder()
            )
        return localizer

    def located(
        self, localizer: Localizer, answers: Sequence[str], catalogue: Catalogue = CATALOGUE
    ) -> Localization:
        """The answers, localized; one that needs sessions gets them, the same one for the same answer."""
        if not getattr(localizer, "needs_sessions", False):
            return localizer.localize(answers, catalogue, LetterEncoder())
        rows = [
            [len(answer) % CATALOGUE.size + 1, len(answer) // 2 % CATALOGUE.size + 1] for answer in answers
        ]
        sessions = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
        return localizer.localize(answers, catalogue, LetterEncoder(), sessions=sessions)  # type: ignore[call-arg]

    def test_satisfies_the_protocol(self) -> None:
        """It has the members."""
        assert isinstance(self.create(2), Localizer), "needs localize"

    def test_shapes_and_types(self) -> None:
        """One row per answer: items int64 (M, F), weights float32 (M, F), embeddings float32 (M, E)."""
        for f in (0, 1, 3):
            found = self.located(self.made(f), ANSWERS)
            assert found.items.shape == found.weights.shape == (len(ANSWERS), f), f"with f = {f}"
            assert found.embeddings.shape == (len(ANSWERS), LetterEncoder().dim), f"with f = {f}"
            assert found.items.dtype == torch.int64
            assert found.weights.dtype == found.embeddings.dtype == torch.float32
            assert found.embeddings.isfinite().all(), f"with f = {f}, values that are no numbers"

    def test_items_are_real_and_weights_are_shares(self) -> None:
        """Ids are 1..N or 0 for none; a row's weights sum to 1 or are all 0; none weighs nothing."""
        found = self.located(self.made(3), ANSWERS)
        for answer, items, weights in zip(ANSWERS, found.items.tolist(), found.weights, strict=True):
            assert all(0 <= item <= CATALOGUE.size for item in items), f"{answer!r}: items {items}"
            real = [item for item in items if item]
            assert len(set(real)) == len(real), f"{answer!r}: an item stands twice in {items}"
            assert (weights >= 0).all(), f"{answer!r}: weights {weights.tolist()}"
            idle = [w for item, w in zip(items, weights.tolist(), strict=True) if not item and w]
            assert idle == [], f"{answer!r}: none weighs {idle}"
            total = float(weights.sum())
            assert abs(total - (total > 0)) < 1e-5, f"{answer!r}: the weights sum to {total:.3f}"

    def test_best_first(self) -> None:
        """Weights do not grow along a row, and none comes last."""
        found = self.located(self.made(3), ANSWERS)
        for answer, items, weights in zip(ANSWERS, found.items, found.weights, strict=True):
            assert (weights.diff() <= 1e-6).all(), f"{answer!r}: weights {weights.tolist()} are not sorted"
            assert ((items > 0).int().diff() <= 0).all(), f"{answer!r}: none before an item: {items.tolist()}"

    def test_an_empty_answer_is_a_zero_row(self) -> None:
        """No answer, no intent."""
        for f in (0, 2):
            found = self.located(self.made(f), ["", "Blue Table", " "])
            for name, part in found._asdict().items():
                assert not part[0].any(), f'"" has {name}'
                assert not part[2].any(), f'" " has {name}'
            assert found.embeddings[1].any(), "beside an empty answer, 'Blue Table' has no intent"

    def test_no_answers_at_all(self) -> None:
        """Nothing in, nothing out, with the right width."""
        width = LetterEncoder().dim
        found = self.located(self.made(2), [])
        assert [tuple(part.shape) for part in found] == [(0, 2), (0, 2), (0, width)]
        found = self.located(self.made(2), ["", ""])
        assert [tuple(part.shape) for part in found] == [(2, 2), (2, 2), (2, width)]

    def test_inputs_stay_as_they_are(self) -> None:
        """Neither the answers nor the catalogue are written into."""
        answers, titles = list(ANSWERS), list(CATALOGUE.titles)
        self.located(self.made(2), answers, CATALOGUE._replace(titles=titles))
        assert answers == ANSWERS, "localize changed the answers"
        assert titles == CATALOGUE.titles, "localize changed the catalogue"

    def test_repeatable(self) -> None:
        """Two of them, made alike, tie the same answers to the same items."""
        one, two = (self.located(self.made(2), ANSWERS) for _ in range(2))
        for name, first, second in zip(one._fields, one, two, strict=True):
            assert torch.equal(first, second), f"{name} differ"

    def test_rows_do_not_depend_on_each_other(self) -> None:
        """An answer is tied to the same items alone and in company."""
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
        """What should be known about a result goes into a JSON file."""
        localizer = self.made(2)
        self.located(localizer, ANSWERS)
        json.dumps(localizer.facts)  # type: ignore[attr-defined]
