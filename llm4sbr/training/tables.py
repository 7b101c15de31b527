"""The item-item tables of `fusion.counted`, made from training sessions or from titles."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from llm4sbr import registry
from llm4sbr.baselines import company
from llm4sbr.baselines.item_to_item import padded
from llm4sbr.errors import ConfigError
from llm4sbr.fusion.counted import NEIGHBOURS
from llm4sbr.fusion.item_item import ItemItem, entries_per_item
from llm4sbr.fusion.model import Recipe
from llm4sbr.fusion.whitened import Whitening
from llm4sbr.protocols import Sessions

COUNTS: dict[str, Callable[[Sessions, int], csr_array]] = {"near": company.near, "lift": company.lift}
TITLES, LINEAR = "titles", "slist"
NAMES = (*COUNTS, TITLES, LINEAR)

MOST_TITLES = 200_000
"""Items of a catalogue whose titles are compared, all with all."""
BLOCK = 1_024


def check_names(names: Collection[str]) -> None:
    """`ConfigError` if there is no table of such a name."""
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"train.counted: no table {name!r}; there are {', '.join(NAMES)}")


def made(
    names: Collection[str], recipe: Recipe, sessions: Sessions, titles: Tensor | None
) -> dict[str, ItemItem]:
    """The tables of these names that a model can have: titles are compared where its fuser reads them.

    Args:
        names: of `NAMES`.
        recipe: of the model.
        sessions: its training sessions.
        titles: float (N, E), if its fuser reads them.
    """
    found = {}
    for name in NAMES:
        if name in names and name != TITLES:
            found[name] = table(name, sessions, recipe.num_items)
        elif name in names and titles is not None and recipe.num_items <= MOST_TITLES:
            found[name] = likeness(titles)
    return found


def table(name: str, sessions: Sessions, num_items: int) -> ItemItem:
    """The table `name` of training sessions, one of `NAMES` but `TITLES`."""
    kept = entries_per_item(NEIGHBOURS, num_items)
    if name == LINEAR:
        model: Any = registry.create("baselines", name, num_items=num_items)
        model.fit(sessions)
        return ItemItem(*model.neighbours(kept))
    return ItemItem(*padded(COUNTS[name](sessions, num_items), kept))


def likeness(titles: Tensor) -> ItemItem:
    """The titles that are most alike, of vectors float (N, E): cos^3 in whitened space, where it is above 0.

    The cube keeps many faintly similar titles from outweighing one that is.
    """
    size, dim = titles.shape
    whitening = Whitening(dim, min(256, dim))
    whitening.fit(titles)
    unit = whitening(titles.to(whitening.mean.dtype))
    kept = entries_per_item(NEIGHBOURS, size)
    ids, weights = torch.zeros(size, kept, dtype=torch.int64), torch.zeros(size, kept)
    for start in range(0, size, BLOCK):
        cosine = (unit[start : start + BLOCK] @ unit.T).clamp(min=0)
        own = torch.arange(len(cosine))
        cosine[own, start + own] = 0
        best = cosine.topk(kept)
        ids[start : start + BLOCK] = torch.where(best.values > 0, best.indices + 1, 0)
        weights[start : start + BLOCK] = best.values**3
    return ItemItem(ids, weights)
