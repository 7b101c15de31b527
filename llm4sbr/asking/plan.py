"""What asking will cost, before anything is asked: prompts, tokens, time, money.

Prompts, distinct prompts and cached answers are counted exactly. Tokens and time are estimated, from this
run's cached answers if there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llm4sbr.asking.cache import AnswerCache, answer_key
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.protocols import LLM, Unit

__all__ = ["Plan", "noun", "plan", "sentence"]

LETTERS = 4.0
"""Characters per token, roughly; used if no cached answer gives a token count."""

NEW_TOKENS = 24
"""Assumed tokens per answer for an LLM without `max_new_tokens`."""


class Plan(NamedTuple):
    """What a run would ask."""

    samples: int
    prompts: int
    """One per sample and perspective."""
    distinct: int
    cached: int
    """Distinct prompts with an answer in the cache."""
    ask: int
    """Distinct prompts without one."""
    within_budget: int
    """How many of these a budget of prompts allows; all of them without such a budget."""
    tokens: int
    """Estimated tokens of the prompts within the budget and their answers."""
    seconds: float | None
    """Expected time; None if no cached answer shows how long one takes."""
    cost: float | None
    """Expected price in the currency of the LLM's `price`; None if it has none."""
    unit: Unit = "session"
    """What the samples are: sessions, or the items of the catalogue."""
    learning: int = 0
    """The most prompts that may be asked about training sessions before; in none of the other numbers."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self._asdict()


def plan(
    samples: int,
    prompts: Callable[[int], Sequence[str]],
    *,
    llm: LLM,
    cache: AnswerCache,
    keys: PromptKeys,
    most: int | None = None,
    advance: Callable[..., None] = lambda n=1, note="": None,
) -> Plan:
    """Create every prompt once and count.

    Args:
        samples: number of samples.
        prompts: returns the prompts of a sample.
        llm: the LLM. Its optional attribute `price` is the price of a million tokens, of prompts and of
            answers: `(2.5, 10.0)`.
        cache: the answer cache.
        keys: empty; filled with the keys of all prompts.
        most: number of prompts that the budget allows.
        advance: called after every sample.
    """
    letters = 0
    for sample in range(samples):
        texts = prompts(sample)
        keys.append([answer_key(llm.fingerprint, text) for text in texts])
        letters += sum(map(len, texts))
        advance(1)
    distinct, known, seconds, tokens = _known(keys, cache)
    count = samples * keys.keys_per_sample
    ask = distinct - known
    within = ask if most is None else min(ask, most)
    new = int(getattr(llm, "max_new_tokens", NEW_TOKENS))
    asked = letters / max(count, 1) / LETTERS  # tokens per prompt
    each = tokens / known if tokens else asked + new
    return Plan(
        samples=samples,
        prompts=count,
        distinct=distinct,
        cached=known,
        ask=ask,
        within_budget=within,
        tokens=round(within * each),
        seconds=round(within * seconds / known, 1) if seconds else None,
        cost=_cost(llm, within, min(asked, each), max(0.0, each - asked)),
    )


def _known(keys: PromptKeys, cache: AnswerCache) -> tuple[int, int, float, int]:
    """Number of distinct keys, how many have a cached answer, and the seconds and tokens of those answers."""
    distinct, known, seconds, tokens = 0, 0, 0.0, 0
    for group in keys.distinct():
        distinct += len(group)
        found = cache.get_many(group).values()
        known += len(found)
        seconds += sum(answer.seconds for answer in found)
        tokens += sum(answer.tokens for answer in found)
    return distinct, known, seconds, tokens


def _cost(llm: LLM, prompts: int, asked: float, answered: float) -> float | None:
    price = getattr(llm, "price", None)
    if price is None:
        return None
    return float(round(prompts * (asked * price[0] + answered * price[1]) / 1e6, 2))


def noun(unit: Unit) -> str:
    """How people call what is asked about."""
    return "items" if unit == "item" else "samples"


def sentence(found: Plan, budget: str | None = None) -> str:
    """The plan as one line of text."""
    text = (
        f"{found.prompts:,} prompts about {found.samples:,} {noun(found.unit)}, "
        f"{found.distinct:,} of them distinct, "
        f"{found.cached:,} answered before; {found.ask:,} to ask"
    )
    if found.within_budget < found.ask:
        text += f", {found.within_budget:,} within the budget"
    if found.learning:
        text += (
            f", and before that at most {found.learning:,} to learn from training sessions (an upper bound)"
        )
    if not found.ask:
        return text
    text += f", about {found.tokens:,} tokens"
    text += f", about {_clock(found.seconds)}" if found.seconds else ""
    text += f", about {found.cost:,.2f} at the LLM's price" if found.cost is not None else ""
    return text + (f", stops after {budget}" if budget and budget[-1] in "smh" else "")


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
