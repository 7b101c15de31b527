"""List-wise and pair-wise ranking of a retriever's candidates by an LLM (Dai et al., RecSys 2023).

    list-wise    order = the order in which the LLM names the candidates' letters
    pair-wise    score(i) = number of candidates j that lose against i when the LLM is asked about {i, j}

Differences from the paper: candidates are a retriever's best C items instead of the target and sampled
others, so a list cannot be better than the retriever's first C; no example is shown (zero-shot); candidates
stand in alphabetical order; of a pair, the one that comes first in this order is A in every second prompt.
An answer that names a part of the candidates counts as far as it goes, where the paper drops it: the others
follow in the retriever's order, which also decides between equal scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from torch import Tensor

from llm4sbr_related.answers import letters
from llm4sbr_related.candidates import Found, Reranker

LIST = """A user chose these items, oldest first:
{session}
Candidates for the next choice:
{candidates}
Rank all {count} candidates, those that the user will most likely choose next first. Answer on one line with \
the letters only, separated by commas."""

PAIR = """A user chose these items, oldest first:
{session}
Which of these two will the user more likely choose next?
{candidates}
Answer with the letter only, A or B."""


class ListWise(Reranker):
    """Ranks the candidates in the order in which the LLM names them (Dai et al. 2023, list-wise)."""

    component = "list-wise"

    def prompts(self, items: Sequence[int]) -> list[str]:
        """One prompt with all candidates."""
        shown = self.find(items).shown
        session, candidates = self.session(items), self.lettered(shown)
        return [LIST.format(session=session, candidates=candidates, count=len(shown))]

    def rescored(self, items: Sequence[int], answers: Sequence[str]) -> Tensor:
        """float32 (N,): the candidates as the answer names them, those that it leaves out behind."""
        found, (answer,) = self.find(items), answers
        return found.reordered(named_first(found, answer))


def named_first(found: Found, answer: str) -> list[int]:
    """The candidates in the order of their letters in an answer, then the others in the retriever's."""
    named = [found.shown[place] for place in letters(answer, len(found.shown))]
    return [*named, *(item for item in found.best if item not in named)]


class PairWise(Reranker):
    """Ranks the candidates by how many others each wins against (Dai et al. 2023, pair-wise).

    C candidates take C (C - 1) / 2 prompts per session.
    """

    component = "pair-wise"

    def prompts(self, items: Sequence[int]) -> list[str]:
        """One prompt for each pair of candidates."""
        session = self.session(items)
        pairs = _pairs(self.find(items).shown)
        return [PAIR.format(session=session, candidates=self.lettered(pair)) for pair in pairs]

    def rescored(self, items: Sequence[int], answers: Sequence[str]) -> Tensor:
        """float32 (N,): the candidates by won pairs; an answer that names neither decides nothing."""
        found = self.find(items)
        won: Counter[int] = Counter()
        for pair, answer in zip(_pairs(found.shown), answers, strict=True):
            won.update(pair[place] for place in letters(answer, 2)[:1])
        return found.ranked(won)


def _pairs(items: Sequence[int]) -> list[tuple[int, int]]:
    """All pairs; in every second one the later item stands first."""
    pairs = combinations(range(len(items)), 2)
    return [(items[i], items[j]) if (i + j) % 2 else (items[j], items[i]) for i, j in pairs]
