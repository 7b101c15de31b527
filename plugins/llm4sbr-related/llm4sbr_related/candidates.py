"""What an LLM is asked to rank: the candidates of a retriever, and how they and the session are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from llm4sbr import registry
from llm4sbr.errors import ConfigError
from llm4sbr.perspectives.parsing import one_line
from llm4sbr.protocols import Baseline, Catalogue, Sessions

LETTERS = ascii_uppercase
"""Names of the candidates in a prompt."""


class Found(NamedTuple):
    """What the retriever found for a session."""

    best: list[int]
    """The candidates, catalogue ids 1..N, best first."""
    shown: list[int]
    """The same in alphabetical order of their titles, so that the order in a prompt says nothing."""
    scores: Tensor
    """float32 (N,), the retriever's."""

    def reordered(self, order: Sequence[int]) -> Tensor:
        """float32 (N,): the candidates in `order` before all other items, which keep their scores."""
        scores = self.scores.clone()
        step = scores.abs().max().clamp(min=1.0)
        places = torch.arange(len(order), 0, -1, dtype=torch.float32)
        scores[torch.tensor(order) - 1] = scores.max() + step * places
        return scores

    def ranked(self, values: Mapping[int, float]) -> Tensor:
        """As `reordered`, by value, highest first; equal ones stay in the retriever's order."""
        return self.reordered(sorted(self.best, key=lambda item: -values.get(item, 0.0)))


class Reranker:
    """What all components that re-rank candidates have in common; they add `prompts` and `rescored`.

    Args:
        num_items: N.
        retriever: the baseline that finds the candidates.
        retriever_options: its options.
        candidates: C, at most 26.
        history: number of a session's most recent items in a prompt.

    Raises:
        ConfigError: a number is out of range, or the retriever cannot find candidates by itself.
    """

    asks = True
    component: ClassVar[str]
    """Its name, for messages."""
    full: ClassVar[bool] = False
    """Whether items are shown with their attributes."""

    def __init__(
        self,
        num_items: int,
        *,
        retriever: str = "slist",
        retriever_options: Mapping[str, Any] | None = None,
        candidates: int = 10,
        history: int = 20,
    ) -> None:
        self.over, self.count, self.history = retriever, candidates, history
        if not 2 <= candidates <= len(LETTERS):
            raise ConfigError(
                f"{self.component}: candidates = {candidates}: a prompt holds 2 to {len(LETTERS)}, "
                "one per letter"
            )
        if history < 1:
            raise ConfigError(f"{self.component}: history = {history}: must be at least 1")
        self.retriever: Baseline = registry.create(
            "baselines", retriever, num_items=num_items, **(retriever_options or {})
        )
        if any(getattr(self.retriever, need, False) for need in ("needs_text", "needs_answers", "asks")):
            raise ConfigError(
                f"{self.component}: retriever = {retriever!r} ranks by texts or asks an LLM; take one that "
                "counts clicks, such as slist"
            )
        self.titles = [f"item {i + 1}" for i in range(num_items)]
        self.repeats = False

    def fit(self, sessions: Sessions) -> None:
        """Fit the retriever."""
        self.retriever.fit(sessions)

    def fit_catalogue(self, catalogue: Catalogue, *, repeats: bool) -> None:
        """Take over the items' texts.

        Raises:
            ConfigError: there are fewer items than candidates.
        """
        if catalogue.size < self.count:
            raise ConfigError(
                f"{self.component}: candidates = {self.count}: the catalogue has {catalogue.size:,}"
            )
        texts = catalogue.texts() if self.full else catalogue.titles
        self.titles = [one_line(text) or f"item {i + 1}" for i, text in enumerate(texts)]
        self.repeats = repeats

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """The retriever's scores, float32 (B, N), for int64 (B, T) under bool (B, T)."""
        return self.retriever.score(items, mask)

    def candidates(self, items: Sequence[int]) -> list[int]:
        """The catalogue ids that answers rank."""
        return self.find(items).best

    def find(self, items: Sequence[int]) -> Found:
        """The candidates for a session, without its own items unless lists may repeat them."""
        row = torch.tensor([list(items)])
        scores = self.score(row, row > 0)[0].float()
        own = set() if self.repeats else set(items)
        order = (scores.argsort(descending=True, stable=True) + 1).tolist()
        best = [item for item in order if item not in own][: self.count]
        return Found(best, sorted(best, key=lambda item: (self.title(item), item)), scores)

    def title(self, item: int) -> str:
        """The text of catalogue id `item` on one line."""
        return self.titles[item - 1]

    def session(self, items: Sequence[int]) -> str:
        """The session as a numbered list, oldest first."""
        shown = items[-self.history :]
        return "\n".join(f"{number}. {self.title(item)}" for number, item in enumerate(shown, start=1))

    def lettered(self, items: Sequence[int]) -> str:
        """Items as a list with a letter each."""
        return "\n".join(
            f"{letter}. {self.title(item)}" for letter, item in zip(LETTERS, items, strict=False)
        )
