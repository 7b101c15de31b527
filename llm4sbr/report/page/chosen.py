"""Chooses the test sessions that the report shows, by a fixed rule, so that nobody can pick nice ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from llm4sbr import store
from llm4sbr.errors import StoreError

COUNT = 30
"""Sessions shown."""
K = 10
"""Length of a list shown."""
WITH, WITHOUT = "llm", "plain"
"""The variants compared."""


class Ranked(NamedTuple):
    """The models that are compared, all of one seed."""

    seed: str
    """`seed-0`: the lowest seed that all variants have."""
    ranks: dict[str, Tensor]
    """Variant, `WITH` first if there is one -> int64 (M,)."""


def compared(run: Path, samples: int) -> Ranked:
    """Ranks by the model with the LLM's intents, if there is one, and by the plain model.

    Raises:
        StoreError: there are none, or they are not of M = `samples` test samples.
    """
    path = run / "evaluate" / "ranks.safetensors"
    every = store.read_tensors(path)
    seeds = {
        variant: {name.partition("/")[2] for name in every if name.startswith(f"{variant}/seed-")}
        for variant in (WITH, WITHOUT)
    }
    present = [variant for variant, found in seeds.items() if found]
    common = set.intersection(*(seeds[variant] for variant in present)) if present else set()
    if WITHOUT not in present or not common:
        raise StoreError(f"{path}: no ranks of the plain backbone to compare with")
    seed = min(common, key=lambda name: int(name.removeprefix("seed-")))
    found = {variant: every[f"{variant}/{seed}"] for variant in present}
    if any(len(one) != samples for one in found.values()):
        raise StoreError(f"{path}: not the ranks of this run's test samples; run evaluate again")
    return Ranked(seed, found)


def choose(
    ranks: Mapping[str, Tensor], keys: Tensor, eligible: Tensor, *, count: int = COUNT
) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The size of every group, and the samples of each to show, int64.

    Groups by which model has the target among its first `K`; one of each in turn as long as there are more,
    until there are `count`; within a group in the order of the samples' keys, hashes of their items.

    Args:
        ranks: variant -> int64 (M,), see `Ranked`.
        keys: int64 (M,).
        eligible: bool (M,).
        count: samples in all.
    """
    order = keys.argsort(stable=True)
    order = order[eligible[order]]
    groups = {title: order[inside[order]] for title, inside in _groups(ranks).items()}
    wanted = dict.fromkeys(groups, 0)
    left = count
    while left and (more := [title for title in groups if wanted[title] < len(groups[title])]):
        for title in more[:left]:
            wanted[title] += 1
            left -= 1
    sizes = {title: len(members) for title, members in groups.items()}
    return sizes, {title: members[: wanted[title]] for title, members in groups.items()}


def rule(samples: int, answered: int | None) -> str:
    """The rule of `choose` in words; `answered` is how many of the samples have an answer."""
    of = f"{samples:,} test samples"
    of = of if answered is None else f"{answered:,} of {of} that have an answer"
    return (
        f"Chosen by rule, not by hand: the {of} are grouped by which model has the next click among its "
        f"first {K}; each group gives one in turn until there are {COUNT}, in the order of a hash of their "
        "items. So the groups are not shown in proportion: beside its name stands how many samples each has. "
        "Ranks and lists are those of the evaluation, with the session's own items or without, as there."
    )


def _groups(ranks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Title -> bool (M,)."""
    without = ranks[WITHOUT] <= K
    if WITH not in ranks:
        return {f"Next click in the first {K}": without, f"Next click not in the first {K}": ~without}
    with_ = ranks[WITH] <= K
    return {
        f"Next click in the first {K} only with the intents": with_ & ~without,
        f"Next click in the first {K} only without them": ~with_ & without,
        f"Next click in the first {K} of both": with_ & without,
        f"Next click in the first {K} of neither": ~with_ & ~without,
    }
