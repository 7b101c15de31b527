"""What every localizer must do; subclass `LocalizerContract` in a plugin's tests.

class TestMine(LocalizerContract):
create = staticmethod(lambda f: MyLocalizer(f=f))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llm4sbr.protocols import Catalogue, Localizer, Sessions

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


class LocalizerContract:
    """Tests of one localizer. One that learns is fitted first, on answers and sessions of its own."""

    create: Callable[[int], Localizer]
    """Makes the localizer for f items per answer."""

    def made(self, f: int) -> Localizer:
        """A localizer, ready to use."""
        localizer = self.create(f)
        if hasattr(localizer, "fit"):
            sessions = Sessions(torch.tensor([1, 2, 3, 4, 2, 1]), torch.tensor([0, 3, 6]))
            localizer.fit(
                ["Green Chair", "Blue Table", "Blue Table", "chair"], sessions, CATALOGUE, LetterEncoder()
            )
        return localizer

    def test_satisfies_the_protocol(self) -> None:
        """It has the members."""
        assert isinstance(self.create(2), Localizer)

    def test_shapes_and_types(self) -> None:
        """One row per answer: items int64 (M, F), weights float32 (M, F), embeddings float32 (M, E)."""
        encoder = LetterEncoder()
        for f in (0, 1, 3):
            found = self.made(f).localize(ANSWERS, CATALOGUE, encoder)
            assert found.items.shape == found.weights.shape == (len(ANSWERS), f)
            assert found.embeddings.shape == (len(ANSWERS), encoder.dim)
            assert found.items.dtype == torch.int64
            assert found.weights.dtype == found.embeddings.dtype == torch.float32

    def test_items_are_real_and_weights_are_shares(self) -> None:
        """Ids are 1..N or 0 for none; a row's weights sum to 1 or are all 0; none weighs nothing."""
        found = self.made(3).localize(ANSWERS, CATALOGUE, LetterEncoder())
        assert found.items.min() >= 0
        assert found.items.max() <= CATALOGUE.size
        assert (found.weights >= 0).all()
        assert (found.weights[found.items == 0] == 0).all()
        total = found.weights.sum(1)
        torch.testing.assert_close(total, (total > 0).float(), atol=1e-6, rtol=0)
        for row in found.items.tolist():
            real = [item for item in row if item]
            assert len(set(real)) == len(real)

    def test_an_empty_answer_is_a_zero_row(self) -> None:
        """No answer, no intent."""
        for f in (0, 2):
            found = self.made(f).localize(["", "Blue Table", " "], CATALOGUE, LetterEncoder())
            for part in found:
                assert not part[0].any()
                assert not part[2].any()
            assert found.embeddings[1].any()

    def test_no_answers_at_all(self) -> None:
        """Nothing in, nothing out, with the right width."""
        encoder = LetterEncoder()
        found = self.made(2).localize([], CATALOGUE, encoder)
        assert [tuple(part.shape) for part in found] == [(0, 2), (0, 2), (0, encoder.dim)]
        found = self.made(2).localize(["", ""], CATALOGUE, encoder)
        assert [tuple(part.shape) for part in found] == [(2, 2), (2, 2), (2, encoder.dim)]

    def test_rows_do_not_depend_on_each_other(self) -> None:
        """An answer is tied to the same items alone and in company."""
        localizer, encoder = self.made(2), LetterEncoder()
        together = localizer.localize(ANSWERS, CATALOGUE, encoder)
        for row, answer in enumerate(ANSWERS):
            alone = localizer.localize([answer], CATALOGUE, encoder)
            assert torch.equal(together.items[row], alone.items[0])
            torch.testing.assert_close(together.weights[row], alone.weights[0], atol=1e-6, rtol=0)
            torch.testing.assert_close(together.embeddings[row], alone.embeddings[0], atol=1e-5, rtol=0)
