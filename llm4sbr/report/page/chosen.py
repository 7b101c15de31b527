"""Chooses the test sessions that the report shows, by a fixed rule instead of by hand.

A fixed rule makes sure that the sessions are not picked because they look good.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from llm4sbr import store
from llm4sbr.errors import StoreError

COUNT = 30
"""Number of sessions shown."""
K = 10
"""Length of the lists shown."""
WITH, WITHOUT = "llm", "plain"
"""The variants that are compared."""


class Ranked(NamedTuple):
    """The ranks of the targets by the compared models, which all have the same seed."""

    seed: str
    """The lowest seed that all variants have, such as `seed-0`."""
    ranks: dict[str, Tensor]
    """Variant -> ranks of M targets, int64 (M,); `WITH` comes first if it exists."""


def compared(run: Path, samples: int) -> Ranked:
    """Read the ranks of the plain model and, if there is one, of the model with the LLM's intents.

    Raises:
        StoreError: there are no ranks, or their number is not `samples`.
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
    """Group the test samples and choose those to show.

    Samples are grouped by which model has the target among its first `K`. The groups contribute one sample
    each, round after round, until there are `count`. Within a group the order is that of the sample keys,
    which are hashes of the items.

    Args:
        ranks: variant -> int64 (M,), see `Ranked`.
        keys: int64 (M,), sample keys.
        eligible: bool (M,), false for samples that must not be shown.
        count: total number of samples to show.

    Returns:
        The size of each group by its title, and the chosen samples of each group, int64.
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
    """The rule of `choose` in words; `answered` is the number of samples that have an answer."""
    of = f"{samples:,} test samples"
    of = of if answered is None else f"{answered:,} of {of} that have an answer"
    return (
        f"Chosen by rule, not by hand: the {of} are grouped by which model has the next click among its "
        f"first {K}; the groups contribute one sample each until there are {COUNT}, ordered by a hash of the "
        "items. The groups are therefore not shown in proportion to their size, which is given next to the "
        "name. Ranks and lists are those of the evaluation, with or without the session's own items."
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
