"""A fixed item-item model beside the network, which then learns what is left to learn.

    score_j = the network's + w log(1 + s_j / e)        s_j = sum of d_t B_ij over the last clicks i of the session

with B out of `ridge`, its largest entries per clicked item, t = 0, 1, ... the age of click i, and w, e and
d_t positive and learned. The logarithm turns what is like a probability into what a softmax wants, and items
that B knows nothing of get nothing. Linear and neural knowledge in one model: LINK (Choi et al. 2025).

B was fitted on the very sessions that the network is trained on. There its scores know the targets, and a
network that believes them is worse than none: on ML-100K below itself without them. So each training session
is scored by a B that was fitted without it (`cross_fit`), as in stacking (Wolpert 1992).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from llm4sbr.fusion.ridge import ItemItem, fit
from llm4sbr.protocols import Samples, Sessions

AGES = 10
"""Clicks that count, the latest ones."""

FOLDS = 4
"""Parts of the training sessions, each scored by a model of the others."""

RIDGE = 30.0
"""Strength of the regularisation, in clicks."""

FADING = 5.0
"""To begin with, a click counts exp(-age / `FADING`)."""

SMALL = 0.02
"""e to begin with: scores below are in proportion, those above count by their order of magnitude."""


class CrossFit(NamedTuple):
    """What `ItemItemScores` is given before training."""

    whole: ItemItem
    """Of all training sessions, for everybody else."""
    parts: ItemItem
    """`FOLDS` models below each other, (FOLDS N, M): number k is fitted without the sessions of fold k."""
    fold: Tensor
    """int64 (M,), the fold of each training sample's session."""


def cross_fit(sessions: Sessions, train: Samples, num_items: int, *, neighbours: int) -> CrossFit:
    """Fit on all training sessions, and `FOLDS` times on all but a part.

    Args:
        sessions: what the samples refer to.
        train: training samples; of each session what they hold is seen, the last target included.
        num_items: N.
        neighbours: M.
    """
    session = torch.searchsorted(sessions.offsets, train.end, right=True) - 1
    count = len(sessions.offsets) - 1
    ends = sessions.offsets[:-1].scatter_reduce(0, session, train.end + 1, "amax")
    fold = torch.randint(FOLDS, (count,), generator=torch.Generator().manual_seed(0))

    def fitted(chosen: Tensor) -> ItemItem:
        until = torch.where(chosen, ends, sessions.offsets[:-1])
        return fit(_cut(sessions, until), num_items, neighbours=neighbours, ridge=RIDGE)

    parts = [fitted(fold != one) for one in range(FOLDS)]
    below = ItemItem(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    return CrossFit(fitted(torch.ones(count, dtype=torch.bool)), below, fold[session])


def _cut(sessions: Sessions, until: Tensor) -> Sessions:
    """Every session up to a position; sessions of which nothing is left stay, empty."""
    lengths = until - sessions.offsets[:-1]
    position = torch.arange(len(sessions.items))
    kept = position < until.repeat_interleave(sessions.offsets.diff())
    return Sessions(sessions.items[kept], torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))


class ItemItemScores(nn.Module):
    """What the item-item model adds to scores.

    Args:
        num_items: N.
        neighbours: M, entries kept per clicked item.
    """

    items: Tensor
    strengths: Tensor

    def __init__(self, num_items: int, neighbours: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.parts: ItemItem | None = None
        self.register_buffer("items", torch.zeros(num_items, neighbours, dtype=torch.int32))
        self.register_buffer("strengths", torch.zeros(num_items, neighbours))
        self.log_ages = nn.Parameter(-torch.arange(AGES) / FADING)  # log d
        self.log_weight = nn.Parameter(torch.zeros(()))
        self.log_small = nn.Parameter(torch.tensor(SMALL).log())

    def fit(self, found: CrossFit) -> None:
        """Take over the model, and for training those of the folds."""
        self.items.copy_(found.whole.items)
        self.strengths.copy_(found.whole.strengths)
        self.parts = found.parts

    def forward(self, items: Tensor, mask: Tensor, fold: Tensor | None = None) -> Tensor:
        """Float (B, N) to be added to the scores of int64 (B, T) under bool (B, T).

        Args:
            items: right-padded.
            mask: true at clicks.
            fold: int64 (B,), sessions are scored without their fold; None for sessions that were not
                trained on.
        """
        ages = torch.arange(AGES, device=items.device)
        places = mask.sum(1, keepdim=True) - 1 - ages  # (B, AGES), the latest click first
        there = places >= 0
        rows = (items.gather(1, places.clamp(min=0)) - 1).clamp(min=0)
        columns, strengths = self._table(rows, fold)
        weight = self.log_ages.exp() * there
        sums = torch.zeros(len(items), self.num_items, dtype=strengths.dtype, device=items.device)
        sums = sums.scatter_add(1, columns.flatten(1), (strengths * weight.unsqueeze(2)).flatten(1))
        return self.log_weight.exp() * torch.log1p(sums / self.log_small.exp())

    def _table(self, rows: Tensor, fold: Tensor | None) -> tuple[Tensor, Tensor]:
        """Neighbours and strengths of rows (B, AGES), int64 and float (B, AGES, M)."""
        if fold is None or self.parts is None:
            return self.items[rows].long(), self.strengths[rows]
        rows = rows + self.num_items * fold.unsqueeze(1)
        columns, strengths = (one.to(rows.device) for one in self.parts)
        return columns[rows].long(), strengths[rows]
