"""Fits the item-item models for training: one on all sessions, and one without each fold of them.

`fusion.item_item` says why.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor

from llm4sbr import registry
from llm4sbr.fusion.item_item import CrossFit, ItemItem, entries_per_item
from llm4sbr.protocols import Samples, Sessions

FOLDS = 4
"""Number of parts of the training sessions; each part is scored by a model fitted on the others."""


class _Linear(Protocol):
    def fit(self, sessions: Sessions) -> None: ...

    def neighbours(self, m: int) -> tuple[Tensor, Tensor]: ...


def cross_fit(sessions: Sessions, train: Samples, num_items: int, *, neighbours: int) -> CrossFit:
    """Fit SLIST on all training sessions, and `FOLDS` times on all but one fold.

    Args:
        sessions: the sessions that the samples refer to.
        train: training samples; each session is used up to the last target among them.
        num_items: N.
        neighbours: M, the number of entries kept per item.
    """
    session = torch.searchsorted(sessions.offsets, train.end, right=True) - 1
    starts = sessions.offsets[:-1]
    ends = starts.scatter_reduce(0, session, train.end + 1, "amax")
    fold = torch.randint(FOLDS, (len(starts),), generator=torch.Generator().manual_seed(0))

    kept = entries_per_item(neighbours, num_items)

    def fitted(chosen: Tensor) -> ItemItem:
        model = cast(_Linear, registry.create("baselines", "slist", num_items=num_items))
        model.fit(_cut(sessions, torch.where(chosen, ends, starts)))
        return ItemItem(*model.neighbours(kept))

    shape = (FOLDS * num_items, kept)
    parts = ItemItem(torch.zeros(shape, dtype=torch.int32), torch.zeros(shape))
    for one in range(FOLDS):
        for whole, found in zip(parts, fitted(fold != one), strict=True):
            whole[one * num_items : (one + 1) * num_items] = found
    return CrossFit(fitted(fold >= 0), parts, fold[session])


def _cut(sessions: Sessions, until: Tensor) -> Sessions:
    """Cut each session before a position, int64 (sessions,) in `sessions.items`; drop those left empty."""
    lengths = until - sessions.offsets[:-1]
    position = torch.arange(len(sessions.items))
    kept = position < until.repeat_interleave(sessions.offsets.diff())
    return Sessions(
        sessions.items[kept],
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths[lengths > 0].cumsum(0)]),
    )
