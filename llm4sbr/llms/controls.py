"""Controls: replacements for an LLM whose answers contain nothing that the LLM inferred about a session.

A gain that a control also reaches is not due to the LLM.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Item, Perspective

__all__ = ["ItemText", "NoAnswer", "Shuffled"]

RECENT = 3
"""Number of last items whose text represents a whole session."""


class ItemText:
    """The text of the session's own last items: what is known without an LLM."""

    fingerprint = "item-text"

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """The last item's text for a short horizon, else the last three items' texts, newest first."""
        count = 1 if perspective.horizon == "short" else RECENT
        return ["\n".join(item.text for item in reversed(items[-count:])) for items in sessions]


class Shuffled:
    """The LLM's own answers, each given to another session.

    Args:
        seed: seed of the permutation. It is the same for every perspective, so a session gets all answers of
            one other session.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.fingerprint = f"shuffled, seed {seed}"
        self._seed = seed

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """Permute the answers along one random cycle: with two or more sessions none keeps its own.

        Another session's answer may be equal to one's own. Excluding that would map each answer to a
        different one in a fixed way, which the model could learn.

        Raises:
            ConfigError: there are no answers to shuffle.
        """
        if answers is None:
            raise ConfigError("infer.llm = 'shuffled': it shuffles an LLM's answers; choose an LLM beside it")
        order = list(range(len(answers)))
        random.Random(self._seed).shuffle(order)
        given = [""] * len(answers)
        for place, index in enumerate(order):
            given[index] = answers[order[place - 1]]
        return given


class NoAnswer:
    """No answers: the fused model without any intents."""

    fingerprint = "none"

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """An empty answer for every session."""
        return [""] * len(sessions)
