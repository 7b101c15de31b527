"""GPT4Rec (Li et al. 2023): the LLM writes search queries for what the user wants next, BM25 answers them.

    score(q, i) = sum over words w of q of idf(w) f(w, i) / (f(w, i) + k1 (1 - b + b |i| / mean |j|))
    idf(w) = ln(1 + (N - n(w) + 1/2) / (n(w) + 1/2))

f(w, i) is how often w is in i's title, |i| its number of words, n(w) the titles with w. The list takes the
best K / m titles of each of m queries in turn, without repetition; behind them all others, by best score.

Differences from the paper: the LLM is asked as it is, not fine-tuned, and writes all queries in one answer
instead of a beam search; the formula is that of Lucene, from the library bm25s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm4sbr.errors import ConfigError
from llm4sbr.perspectives.parsing import one_line
from llm4sbr.protocols import Catalogue, Sessions

PROMPT = """A user chose these items, oldest first:
{session}
Write {queries} different search queries, each of a few words, that would find what this user wants next. \
Answer on one line, separated by semicolons."""


class GPT4Rec:
    """Ranks items by their titles' BM25 scores for queries that the LLM writes.

    Without answers the session's own titles are the query, which shows what the index finds by itself.

    Args:
        num_items: N.
        queries: m.
        k: K, length of the list that the queries share.
        history: number of a session's most recent items that are shown, or searched for without answers.
        k1: how slowly repeated words saturate.
        b: how much long titles count less, 0 to 1.

    Raises:
        ConfigError: an option is out of range.
    """

    asks = True
    over = "BM25 of titles"

    def __init__(
        self,
        num_items: int,
        *,
        queries: int = 3,
        k: int = 20,
        history: int = 20,
        k1: float = 1.5,
        b: float = 0.75,
    ) -> None:
        for name, value in {"queries": queries, "k": k, "history": history}.items():
            if value < 1:
                raise ConfigError(f"gpt4rec: {name} = {value}: must be at least 1")
        if k1 < 0 or not 0 <= b <= 1:
            raise ConfigError(f"gpt4rec: k1 = {k1}, b = {b}: expected k1 >= 0 and b from 0 to 1")
        self.num_items, self.queries, self.k, self.history, self.k1, self.b = (
            *(num_items, queries, k),
            *(history, k1, b),
        )
        self.titles = [f"item {i + 1}" for i in range(num_items)]
        self._index = _Index(self.titles, k1, b)

    def fit(self, sessions: Sessions) -> None:
        """Nothing is learned from sessions."""

    def fit_catalogue(self, catalogue: Catalogue, *, repeats: bool) -> None:
        """Index the titles.

        Raises:
            ConfigError: no title has a word, so that the index is empty.
        """
        self.titles = [one_line(title) for title in catalogue.titles]
        self._index = _Index(self.titles, self.k1, self.b)

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """float32 (B, N): BM25 of the sessions' titles, for int64 (B, T) under bool (B, T)."""
        rows = [self._by_titles(row[own].tolist()) for row, own in zip(items, mask, strict=True)]
        return torch.from_numpy(np.stack(rows))

    def prompts(self, items: Sequence[int]) -> list[str]:
        """One prompt for all queries."""
        shown = enumerate(items[-self.history :], start=1)
        session = "\n".join(f"{number}. {self.titles[item - 1]}" for number, item in shown)
        return [PROMPT.format(session=session, queries=self.queries)]

    def rescored(self, items: Sequence[int], answers: Sequence[str]) -> Tensor:
        """float32 (N,): see the module; without a usable query as `score`."""
        (answer,) = answers
        asked = queries(answer, self.queries)
        scores = [self._index.score(query) for query in asked]
        if not any(one.any() for one in scores):
            return torch.from_numpy(self._by_titles(items))
        return torch.from_numpy(shared(scores, self.k))

    def _by_titles(self, items: Sequence[int]) -> NDArray[np.float32]:
        query = " ".join(self.titles[item - 1] for item in items[-self.history :])
        return self._index.score(query)


def queries(answer: str, most: int) -> list[str]:
    """The queries in an answer, separated by semicolons or lines, without numbers before them."""
    parts = (re.sub(r"^\W*\d+[.)]\s*", "", part).strip(" \t\"'-") for part in re.split(r"[;\n]", answer))
    return [part for part in dict.fromkeys(parts) if part][:most]


def shared(scores: Sequence[NDArray[np.float32]], k: int) -> NDArray[np.float32]:
    """One list from the scores of several queries, float32 (N,) each: K / m from each in turn, then the rest.

    Items that no query finds score 0.
    """
    best: NDArray[np.float32] = np.max(scores, axis=0)
    taken: list[int] = []
    for one in scores:
        order = [int(item) for item in np.argsort(-one, kind="stable") if one[item] > 0]
        taken += [item for item in order if item not in taken][: -(-k // len(scores))]
    found = best.copy()
    found[taken] = best.max() + np.arange(len(taken), 0, -1, dtype=np.float32)
    return found


class _Index:
    """The titles' words, searched by BM25."""

    def __init__(self, titles: Sequence[str], k1: float, b: float) -> None:
        import bm25s

        words = [_words(title) for title in titles]
        if not any(words):
            raise ConfigError("gpt4rec: no item has a title with a word in it, so there is nothing to search")
        self._count = len(titles)
        self._found = bm25s.BM25(k1=k1, b=b, method="lucene")
        self._found.index(words, show_progress=False)

    def score(self, query: str) -> NDArray[np.float32]:
        """float32 (N,)."""
        words = _words(query)
        if not words:  # the library fails here
            return np.zeros(self._count, np.float32)
        found: NDArray[np.float32] = self._found.get_scores(words).astype(np.float32)
        return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
