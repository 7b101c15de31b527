"""Fixed item-item models, read by the items of a session: alone (`linear`), or beside the network, as here.

The network then learns what is left to learn.

    score_j = the network's + w log(1 + s_j / e)        s_j = sum of d_t B_ij over the session's clicks i

B (N, N) is a linear model such as SLIST, fitted before; of it the largest entries per clicked item are kept.
t = 0, 1, ... is the age of click i; the latest ones count. w, e and d_t are positive and learned. The
logarithm turns what is like a probability into what a softmax wants, and items of which B knows nothing get
nothing. Linear and neural knowledge in one model: LINK (Choi et al. 2025, arXiv 2504.15057), which distils
where this adds.

On the sessions that B was fitted on its scores know the targets, and a network that believes them is worse
than none. So in training each session is scored by a B that was fitted without it (cross-fitting, as in
stacking, Wolpert 1992).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from llm4sbr.fast import item_item as fast

AGES = 10
"""Clicks that count, the latest ones."""

FADING = 5.0
"""To begin with, a click counts exp(-age / `FADING`)."""

SMALL = 0.02
"""e to begin with: scores below are in proportion, those above count by their order of magnitude."""


class ItemItem(NamedTuple):
    """The largest entries of an item-item matrix, by the item clicked."""

    items: Tensor
    """int64 (N, M), catalogue ids; 0 where there is none."""
    weights: Tensor
    """float32 (N, M), never negative; 0 where there is no item."""


class CrossFit(NamedTuple):
    """What `ItemItemScores` is given before training."""

    whole: ItemItem
    """Fitted on all training sessions."""
    parts: ItemItem
    """Those of F folds below each other, (F N, M): number k is fitted without the sessions of fold k."""
    fold: Tensor
    """int64 (M,), the fold of each training sample's session."""


class ItemItemScores(nn.Module):
    """What the item-item model adds to scores.

    Args:
        num_items: N.
        neighbours: M, entries kept per clicked item.
    """

    items: Tensor
    weights: Tensor

    def __init__(self, num_items: int, neighbours: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.parts: ItemItem | None = None
        self.register_buffer("items", torch.zeros(num_items, neighbours, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(num_items, neighbours))
        self.log_ages = nn.Parameter(-torch.arange(AGES) / FADING)  # log d
        self.log_weight = nn.Parameter(torch.zeros(()))
        self.log_small = nn.Parameter(torch.tensor(SMALL).log())

    def fit(self, found: CrossFit) -> None:
        """Take over the model, and for training those of the folds."""
        self.items.copy_(found.whole.items)
        self.weights.copy_(found.whole.weights)
        self.parts = found.parts

    def forward(self, items: Tensor, mask: Tensor, fold: Tensor | None = None) -> Tensor:
        """Float (B, N) to be added to the scores of int64 (B, T) under bool (B, T).

        Args:
            items: right-padded.
            mask: true at clicks.
            fold: int64 (B,), sessions are scored without their fold; None for sessions that were not
                trained on.
        """
        rows, there = latest(items, mask, AGES)
        ids, weights = self._table(rows, fold)
        ages = self.log_ages.exp() * there
        weight, small = self.log_weight.exp(), self.log_small.exp()
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return fast.added((ids - 1).clamp(min=0), weights, ages, weight, small, self.num_items)
        summed = summed_in_turn if torch.onnx.is_in_onnx_export() else summed_at_once
        return weight * torch.log1p(summed(ids, weights * ages.unsqueeze(2), self.num_items) / small)

    def _table(self, rows: Tensor, fold: Tensor | None) -> tuple[Tensor, Tensor]:
        """Neighbours int64 and their weights float, (B, AGES, M), of rows (B, AGES)."""
        if fold is None or self.parts is None:
            return self.items[rows].long(), self.weights[rows]
        rows = (rows + self.num_items * fold.unsqueeze(1)).to(self.parts.items.device)
        return self.parts.items[rows].to(fold.device), self.parts.weights[rows].to(fold.device)


def latest(items: Tensor, mask: Tensor, ages: int) -> tuple[Tensor, Tensor]:
    """The latest clicks of int64 (B, T) under bool (B, T): rows int64 (B, ages), 0..N-1, last click first.

    Also bool (B, ages), false where the session has no click of that age.
    """
    places = mask.sum(1, keepdim=True) - 1 - torch.arange(ages, device=items.device)
    rows = (items.gather(1, places.clamp(min=0)) - 1).clamp(min=0)
    return rows, places >= 0


def summed_at_once(ids: Tensor, weights: Tensor, num_items: int) -> Tensor:
    """Float (B, N), the sums of float (B, A, M) by item, int64 (B, A, M); 0 is nobody's and weighs 0."""
    sums = weights.new_zeros(weights.shape[0], num_items)
    return sums.scatter_add(1, (ids - 1).clamp(min=0).flatten(1), weights.flatten(1))


def summed_in_turn(ids: Tensor, weights: Tensor, num_items: int) -> Tensor:
    """The same click by click, for TensorRT, whose ScatterElements cannot add. A is a constant of the graph.

    The neighbours of one click differ; instead of nobody the first one stands there, and is given the same
    value twice.
    """
    nobody = ids == 0
    columns = (torch.where(nobody, ids[:, :, :1], ids) - 1).clamp(min=0)
    weights = torch.where(nobody, weights[:, :, :1], weights)
    sums = weights.new_zeros(weights.shape[0], num_items)
    for age in range(ids.shape[1]):
        column = columns[:, age]
        sums = sums.scatter(1, column, sums.gather(1, column) + weights[:, age])
    return sums
