"""Ratings of a retriever's candidates by an LLM, one prompt per candidate.

    score(i) = the rating from 1 to 5 that the LLM gives to candidate i, 0 if it gives none

`point-wise` is that of Dai et al. (RecSys 2023): whole numbers, titles only. `zero-shot-rating` follows Kang
et al. (2023), who predict a user's rating of an item from what they rated before: items are shown with
their attributes, and a rating may be a fraction.

Differences from the papers: candidates are a retriever's best C items, and equal ratings stay in the
retriever's order; sessions have clicks, not ratings, so the items of the history are shown without one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from llm4sbr_related.answers import rating
from llm4sbr_related.candidates import Reranker

POINT = """A user chose these items, oldest first:
{session}
How likely will the user choose this item next?
{candidate}
Answer with one number only, from 1 (not likely) to 5 (very likely)."""

RATE = """Items that a user chose, oldest first:
{session}
Predict the rating that this user would give to this item, from 1 (lowest) to 5 (highest):
{candidate}
Answer with the rating only, without an explanation."""


class PointWise(Reranker):
    """Ranks the candidates by whole ratings from 1 to 5 (Dai et al. 2023, point-wise)."""

    component, template, whole = "point-wise", POINT, True

    def prompts(self, items: Sequence[int]) -> list[str]:
        """One prompt per candidate, the retriever's best first."""
        session = self.session(items)
        return [
            self.template.format(session=session, candidate=self.title(item))
            for item in self.find(items).best
        ]

    def rescored(self, items: Sequence[int], answers: Sequence[str]) -> Tensor:
        """float32 (N,): the candidates by their ratings."""
        found = self.find(items)
        pairs = zip(found.best, answers, strict=True)
        return found.ranked({item: rating(answer, whole=self.whole) for item, answer in pairs})


class ZeroShotRating(PointWise):
    """Ranks the candidates by ratings from 1 to 5, with attributes (Kang et al. 2023, zero-shot)."""

    component, template, whole, full = "zero-shot-rating", RATE, False, True
