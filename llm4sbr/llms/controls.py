"""Stand-ins for an LLM: what intents are worth whose text nobody inferred, or that are another session's.

A gain that one of these shows as well is not the LLM's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Item, Perspective

__all__ = ["ItemText", "NoAnswer", "Shuffled"]

RECENT = 3
"""Items whose text stands for a whole session."""


class ItemText:
    """The text of the session's own last items: what is known without asking anybody."""

    fingerprint = "item-text"

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """The last item's text for a short horizon, else the last three items', a line each, newest first."""
        count = 1 if perspective.horizon == "short" else RECENT
        return ["\n".join(item.text for item in reversed(items[-count:])) for items in sessions]


class Shuffled:
    """The LLM's own answers, each given to another session.

    Args:
        seed: of the permutation. It does not depend on the perspective, so that a session gets all the
            intents of one other session.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.fingerprint = f"shuffled, seed {seed}"
        self._seed = seed

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """The answers along one random cycle, so that with two sessions or more none keeps its own.

        Equal answers are not kept apart: a rule that did so would map answers to answers, and the model
        could learn the map.

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
    """No answer to anything: the fused model without a single intent."""

    fingerprint = "none"

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """An empty text for every session."""
        return [""] * len(sessions)
