"""Adds counts to the scores of a trained model: fixed item-item tables, and how popular an item is.

    score_j = the model's + b log n_j + sum over tables k of w_k log(1 + s_kj / e_k)
    s_kj    = sum over the latest clicks i, t = 0, 1, ... clicks ago, of exp(-t / 2) B_k[i, j]

n_j is the number of clicks on item j in training (at least 1/2), and `training.tables` makes the tables B_k.
Weights that are learned in training fit what training sessions know of themselves, popularity above all.
These are not: b, w_k and e_k are fitted to validation sessions after training (`training.counting`), as in
stacking (Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from llm4sbr.fusion.item_item import ItemItem, latest, summed_at_once, summed_in_turn

CLICKS = 5
"""Clicks that count, the latest ones."""

FADING = 2.0
"""A click counts exp(-t / `FADING`)."""

NEIGHBOURS = 100
"""Entries kept per clicked item and table."""

PRIOR = "popularity"
"""Name of b among the weights."""


class Table(nn.Module):
    """One table B_k, with w and e.

    Args:
        num_items: N.
    """

    items: Tensor
    weights: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        kept = min(NEIGHBOURS, num_items)
        self.num_items = num_items
        self.register_buffer("items", torch.zeros(num_items, kept, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(num_items, kept))
        self.weight = nn.Parameter(torch.zeros(()))  # w
        self.small = nn.Parameter(torch.ones(()))  # e

    @staticmethod
    def fading() -> Tensor:
        """How much a click counts, float (`CLICKS`,), the latest first."""
        return (-torch.arange(CLICKS) / FADING).exp()

    def sums(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """s, float (B, N), of int64 (B, T) under bool (B, T), and where it may differ from 0, int64 (B, C).

        The columns may repeat themselves.
        """
        rows, there = latest(items, mask, CLICKS)
        ids = self.items[rows].long()
        fading = self.fading().to(items.device) * there
        weights = self.weights[rows] * fading.unsqueeze(2)
        summed = summed_in_turn if torch.onnx.is_in_onnx_export() else summed_at_once
        return summed(ids, weights, self.num_items), (ids - 1).clamp(min=0).flatten(1)

    def forward(self, added: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        """`added`, float (B, N), plus w log(1 + s / e), computed only where s may differ from 0."""
        sums, where = self.sums(items, mask)
        told = self.weight * torch.log1p(sums.gather(1, where) / self.small)
        return added.scatter(1, where, added.gather(1, where) + told)  # the same item, the same value


class Counted(nn.Module):
    """What is added to scores.

    Args:
        num_items: N.
        names: of the tables.
    """

    popularity: Tensor

    def __init__(self, num_items: int, names: Sequence[str]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: Table(num_items) for name in names})
        self.prior = nn.Parameter(torch.zeros(()))  # b
        self.register_buffer("popularity", torch.zeros(num_items))

    @property
    def by_name(self) -> dict[str, Table]:
        """The tables."""
        return cast(dict[str, Table], dict(self.tables.items()))

    def fit(self, tables: Mapping[str, ItemItem], clicks: Tensor) -> None:
        """Take over the tables, and the items' clicks in training, int64 (N,)."""
        for name, table in self.by_name.items():
            table.items.copy_(tables[name].items)
            table.weights.copy_(tables[name].weights)
        logs = clicks.double().clamp(min=0.5).log()
        self.popularity.copy_(logs - logs.mean())

    def weigh(self, weights: Mapping[str, Sequence[float]]) -> None:
        """Set b, as `PRIOR` -> (b,), and w and e of each table, as name -> (w, e)."""
        with torch.no_grad():
            self.prior.fill_(weights[PRIOR][0])
            for name, table in self.by_name.items():
                table.weight.fill_(weights[name][0])
                table.small.fill_(weights[name][1])

    def sums(self, items: Tensor, mask: Tensor) -> Tensor:
        """S of every table, float (B, N, K), of int64 (B, T) under bool (B, T)."""
        return torch.stack([table.sums(items, mask)[0] for table in self.by_name.values()], 2)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """Float (B, N) to be added to the scores of int64 (B, T) under bool (B, T)."""
        added = (self.prior * self.popularity).expand(items.shape[0], -1)
        for table in self.by_name.values():
            added = table(added, items, mask)
        return added
