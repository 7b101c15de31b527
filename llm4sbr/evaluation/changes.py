"""Which test samples gain by the LLM's intents, and which lose, by the rank of the target with and without.

A sample gains if the mean of 1 / rank over the seeds is higher with the intents than without. Samples without
an answer are left out, because they have no intents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.ranking import SampleIntents
from llm4sbr.evaluation.shown import shown_answers

SHOWN = 3
"""Number of examples of each kind."""
ROUNDING = 1e-14
"""Smaller differences are rounding errors: 1 / rank of different ranks below 10 million differs by more."""


def changes(
    run: Path,
    prepared: Prepared,
    intents: SampleIntents,
    own: Sequence[Tensor],
    others: Mapping[str, Sequence[Tensor]],
    *,
    k: int,
) -> dict[str, Any] | None:
    """Count the test samples that gain and lose, and find those that do so most; plain values only.

    Args:
        run: the run directory, with the answers in `infer`.
        prepared: the run's data.
        intents: the LLM's intents of the test samples.
        own: ranks with the intents, int64 (M,) per seed.
        others: what to compare with -> its ranks; the examples are those of the first.
        k: list length K.

    Returns:
        `k`, `samples` (those with an answer), `over` (an entry for each of `others`, see `counts`) and
        `examples` (`gained` and `lost`, the greatest changes first, at most one of a session). None if
        no sample has an answer.
    """
    known = intents.rows >= 0
    if not bool(known.any()):
        return None
    test = prepared.samples["test"]
    named = _named(intents, prepared.sessions.items[test.end])
    over = [{"name": name, **counts(own, other, known, named, k=k)} for name, other in others.items()]
    first = next(iter(others.values()))
    change = change_of(own, first)
    sessions = torch.searchsorted(prepared.sessions.offsets, test.end, right=True)
    examples = {
        name: _examples(run, prepared, intents, greatest(sign, known, test.key, sessions), own, first)
        for name, sign in (("gained", change), ("lost", -change))
    }
    return {"k": k, "samples": int(known.sum()), "over": over, "examples": examples}


def change_of(own: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """The mean of 1 / rank over seeds minus that of the other ranks, float64 (M,)."""
    means = [torch.stack([1 / ranks.double() for ranks in seeds]).mean(0) for seeds in (own, other)]
    return means[0] - means[1]


def counts(
    own: Sequence[Tensor], other: Sequence[Tensor], known: Tensor, named: Tensor, *, k: int
) -> dict[str, int]:
    """How many samples change, and how.

    Args:
        own: ranks with the intents, int64 (M,) per seed.
        other: ranks without.
        known: bool (M,), samples to count.
        named: bool (M,), whether an answer was tied to the next click.
        k: list length K.

    Returns:
        `gained`, `lost` and `same`; `found` and `missed`, the samples whose target is among the first K for
        more, or for fewer, seeds than without; `gained_named` and `lost_named`, those with an answer that was
        tied to the target.
    """
    change = change_of(own, other)
    hits = [torch.stack([metrics.hit_rate(ranks, k) for ranks in seeds]).mean(0) for seeds in (own, other)]
    gained, lost = known & (change > ROUNDING), known & (change < -ROUNDING)
    found, missed = known & (hits[0] > hits[1]), known & (hits[0] < hits[1])
    groups = {"gained": gained, "lost": lost, "same": known & ~gained & ~lost, "found": found}
    groups |= {"missed": missed, "gained_named": gained & named, "lost_named": lost & named}
    return {name: int(group.sum()) for name, group in groups.items()}


def greatest(
    change: Tensor, known: Tensor, keys: Tensor, sessions: Tensor, *, count: int = SHOWN
) -> list[int]:
    """The samples with the greatest positive change, at most one of a session and of equal prefixes.

    Args:
        change: float (M,).
        known: bool (M,), samples to choose from.
        keys: int64 (M,), hashes of the samples' items.
        sessions: int64 (M,), the samples' sessions.
        count: how many at most.
    """
    order = keys.argsort(stable=True)
    order = order[change[order].argsort(descending=True, stable=True)]
    order = order[(known & (change > ROUNDING))[order]]
    chosen: list[int] = []
    shown: set[tuple[str, int]] = set()  # equal prefixes would show the same answers again
    for sample in order.tolist():
        if len(chosen) == count:
            break
        own = {("session", int(sessions[sample])), ("key", int(keys[sample]))}
        if not own & shown:
            chosen.append(sample)
            shown |= own
    return chosen


def _named(intents: SampleIntents, targets: Tensor) -> Tensor:
    """Whether an answer to the sample was tied to its target, bool (M,)."""
    items, _ = intents.store.located(intents.rows)  # (M, P, F)
    return (items == targets[:, None, None]).flatten(1).any(1)


def _examples(
    run: Path,
    prepared: Prepared,
    intents: SampleIntents,
    samples: Sequence[int],
    own: Sequence[Tensor],
    other: Sequence[Tensor],
) -> list[dict[str, Any]]:
    titles, test = prepared.catalogue.titles, prepared.samples["test"]
    index = torch.tensor(samples, dtype=torch.int64)
    answers = shown_answers(run, intents, index, prepared.catalogue)
    return [
        {
            "clicks": [titles[id - 1] for id in prepared.prefix(test, sample)],
            "target": titles[int(prepared.sessions.items[test.end[sample]]) - 1],
            "ranks": [int(ranks[sample]) for ranks in own],
            "ranks_without": [int(ranks[sample]) for ranks in other],
            "answers": [answer._asdict() for answer in found],
        }
        for sample, found in zip(samples, answers, strict=True)
    ]
