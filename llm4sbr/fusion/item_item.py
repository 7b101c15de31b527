"""Linear item-item models: their sums over a session's clicks, and a module that adds them to a network.

`linear` recommends with such a model alone. Beside a network it is fitted first and stays fixed, so that the
network only has to learn what the item-item model does not predict:

    score_j = network's score + w log(1 + s_j / e)      s_j = sum of d_t B_ij over the session's clicks i

B (N, N) is a linear model such as SLIST, of which each row keeps its largest entries. t = 0, 1, ... is the
age of the click on i; only the latest clicks count. w, e and d_t are positive and learned. s_j behaves like a
probability, while scores are logits, hence the logarithm; items for which s_j is 0 get 0. LINK (Choi et al.
2025, arXiv 2504.15057) also combines a linear and a neural model, but by distillation instead of a sum.

On the sessions that B was fitted on, its scores depend on the targets, and a network trained with them is
worse than one without. During training each session is therefore scored by a B that was fitted without this
session (cross-fitting, as in stacking, Wolpert 1992).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from llm4sbr.fast import item_item as fast
from llm4sbr.fusion.part import Part

AGES = 10
"""Number of latest clicks that are used."""

FADING = 5.0
"""Initial weights of the clicks: d_t = exp(-t / `FADING`)."""

SMALL = 0.02
"""Initial e: log(1 + s / e) is about linear in s below e, and about logarithmic above."""


MOST_ENTRIES = 20_000_000
"""Entries of an item-item matrix that are kept, 160 MB: fewer per row in a catalogue of more than 200,000."""


def entries_per_item(asked: int, num_items: int) -> int:
    """M, the entries of a row that are kept if `asked` are wanted and memory allows as many."""
    return min(asked, num_items, max(1, MOST_ENTRIES // num_items))


class ItemItem(NamedTuple):
    """The M largest entries in each row of an item-item matrix; the row is the clicked item."""

    items: Tensor
    """int32 or int64 (N, M), catalogue ids of the columns; 0 if a row has fewer than M entries."""
    weights: Tensor
    """float32 (N, M), not negative; 0 where there is no entry."""


class CrossFit(NamedTuple):
    """The item-item models that `ItemItemScores` needs for training."""

    whole: ItemItem
    """Fitted on all training sessions; used after training."""
    parts: ItemItem
    """F models, concatenated to (F N, M): rows k N to (k + 1) N are fitted without the sessions of fold k."""
    fold: Tensor
    """int64, for each training sample the fold of its session."""


class ItemItemScores(nn.Module):
    """Computes what the item-item model adds to the scores.

    Args:
        num_items: N.
        neighbours: M, the number of entries kept per clicked item.
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
        """Store the item-item model, and those of the folds for training (not saved with the weights)."""
        self.items.copy_(found.whole.items)
        self.weights.copy_(found.whole.weights)
        self.parts = found.parts

    def forward(
        self, items: Tensor, mask: Tensor, fold: Tensor | None = None, part: Part | None = None
    ) -> Tensor:
        """Compute float (B, N), which is added to the network's scores.

        Args:
            items: int64 (B, T), right-padded.
            mask: bool (B, T), true at clicks.
            fold: int64 (B,), the folds of training sessions, each of which is scored by the model that was
                fitted without its fold; None for other sessions.
            part: the C items that are scored, C instead of N, if these are not all.
        """
        rows, there = latest(items, mask, AGES)
        ids, weights = self._table(rows, fold)
        size = self.num_items
        if part is not None:
            ids, size = part.place[ids], len(part.ids)
            weights = weights * (ids > 0)
        ages = self.log_ages.exp() * there
        weight, small = self.log_weight.exp(), self.log_small.exp()
        if not (torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()):
            return fast.added((ids - 1).clamp(min=0), weights, ages, weight, small, size)
        summed = summed_in_turn if torch.onnx.is_in_onnx_export() else summed_at_once
        return weight * torch.log1p(summed(ids, weights * ages.unsqueeze(2), size) / small)

    def _table(self, rows: Tensor, fold: Tensor | None) -> tuple[Tensor, Tensor]:
        """Neighbours int64 (B, AGES, M) and their weights float (B, AGES, M) of item indices (B, AGES)."""
        if fold is None or self.parts is None:
            return self.items[rows].long(), self.weights[rows]
        rows = (rows + self.num_items * fold.unsqueeze(1)).to(self.parts.items.device)
        ids, weights = self.parts.items[rows].long(), self.parts.weights[rows]
        return ids.to(fold.device), weights.to(fold.device)


def latest(items: Tensor, mask: Tensor, ages: int) -> tuple[Tensor, Tensor]:
    """The latest clicks of a session, the last one first.

    Args:
        items: int64 (B, T), right-padded.
        mask: bool (B, T), true at clicks.
        ages: A, the number of clicks.

    Returns:
        The clicked items' indices 0..N-1, int64 (B, A), and whether there is such a click, bool (B, A).
    """
    places = mask.sum(1, keepdim=True) - 1 - torch.arange(ages, device=items.device)
    rows = (items.gather(1, places.clamp(min=0)) - 1).clamp(min=0)
    return rows, places >= 0


def summed_at_once(ids: Tensor, weights: Tensor, num_items: int) -> Tensor:
    """Sum weights float (B, A, M) by catalogue ids int64 (B, A, M): float (B, N).

    Where the id is 0 the weight is 0 too, so it does not matter that it is added to item 1.
    """
    sums = weights.new_zeros(weights.shape[0], num_items)
    return sums.scatter_add(1, (ids - 1).clamp(min=0).flatten(1), weights.flatten(1))


def summed_in_turn(ids: Tensor, weights: Tensor, num_items: int) -> Tensor:
    """The same sums, one click after the other, because TensorRT's ScatterElements cannot add.

    Without addition, an index must not occur twice with different values. The neighbours of one click are
    distinct; where there is none, the first neighbour and its weight are repeated, so that the same value is
    written twice.
    """
    nobody = ids == 0
    columns = (torch.where(nobody, ids[:, :, :1], ids) - 1).clamp(min=0)
    weights = torch.where(nobody, weights[:, :, :1], weights)
    sums = weights.new_zeros(weights.shape[0], num_items)
    for age in range(ids.shape[1]):
        column = columns[:, age]
        sums = sums.scatter(1, column, sums.gather(1, column) + weights[:, age])
    return sums
