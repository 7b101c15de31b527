"""What is counted and read, beside a trained model: fixed item-item tables, and how popular an item is.

    score_j = the model's + b log n_j + sum over tables k of w_k log(1 + s_kj / e_k)
    s_kj    = sum over the latest clicks i, t = 0, 1, ... clicks ago, of exp(-t / 2) B_k[i, j]

with n_j the clicks of item j in training (at least 1/2), and tables B_k made by `training.tables`. Weights
learned in training trust what training sessions know of themselves, popularity above all. So these are not
learned there: b, w_k and e_k are fitted to validation sessions after training (`training.counting`), as in
stacking (Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from llm4sbr.fusion.item_item import AGES, CrossFit, ItemItem, ItemItemScores

FADING = 2.0
"""A click counts exp(-age / `FADING`)."""

NEIGHBOURS = 100
"""Entries kept per clicked item and table."""

PRIOR = "popularity"
"""b, among the weights by name."""


class Counted(nn.Module):
    """What is added to scores.

    Args:
        num_items: N.
        names: of the tables.
    """

    popularity: Tensor

    def __init__(self, num_items: int, names: Sequence[str]) -> None:
        super().__init__()
        kept = min(NEIGHBOURS, num_items)
        self.tables = nn.ModuleDict({name: ItemItemScores(num_items, kept) for name in names})
        self.prior = nn.Parameter(torch.zeros(()))
        self.register_buffer("popularity", torch.zeros(num_items))
        for table in self.tables.values():
            table.log_ages.data.copy_(-torch.arange(AGES) / FADING)

    def fit(self, tables: Mapping[str, ItemItem], clicks: Tensor) -> None:
        """Take over the tables, and the items' clicks in training, int64 (N,)."""
        nobody = torch.zeros(0, dtype=torch.int64)
        for name, table in self.tables.items():
            table.fit(CrossFit(tables[name], ItemItem(nobody, nobody), nobody))
            table.parts = None
        logs = clicks.double().clamp(min=0.5).log()
        self.popularity.copy_(logs - logs.mean())

    def weigh(self, weights: Mapping[str, Sequence[float]]) -> None:
        """Set b, `PRIOR` -> (b,), and of each table, by name, w and e, both above 0."""
        with torch.no_grad():
            self.prior.fill_(weights[PRIOR][0])
            for name, table in self.tables.items():
                weight, small = weights[name]
                table.log_weight.copy_(torch.tensor(weight, dtype=torch.float64).log())
                table.log_small.copy_(torch.tensor(small, dtype=torch.float64).log())

    def sums(self, items: Tensor, mask: Tensor) -> Tensor:
        """s, float (B, N, K), of int64 (B, T) under bool (B, T), whatever the weights are."""
        found = []
        for table in self.tables.values():
            weight, small = table.log_weight.exp(), table.log_small.exp()
            found.append(torch.expm1(table(items, mask) / weight) * small)
        return torch.stack(found, 2)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """Float (B, N) to be added to the scores of int64 (B, T) under bool (B, T)."""
        added = (self.prior * self.popularity).unsqueeze(0)
        for table in self.tables.values():
            added = added + table(items, mask)
        return added
