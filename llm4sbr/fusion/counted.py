"""Adds counts to the scores of a trained model: fixed item-item tables, and how popular an item is.

    score_j = the model's + b log n_j + r_j + sum over tables k of w_k log(1 + s_kj / e_k)
    s_kj    = sum over the latest clicks i, t = 0, 1, ... clicks ago, of exp(-t / 2) B_k[i, j]
    r_j     = r_last for the session's last item, r_earlier for its other items, else 0

n_j is the number of clicks on item j in training (at least 1/2), and `training.tables` makes the tables B_k.
No table has an entry for an item itself, so without r, which is there if lists may contain a session's own
items, all others would gain on these. Weights that are learned in training fit what training sessions know of
themselves, popularity above all. These are not: b, r, w_k and e_k are fitted to validation sessions after
training (`training.counting`), as in stacking (Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from llm4sbr.fusion.item_item import ItemItem, entries_per_item, latest, summed_at_once, summed_in_turn

CLICKS = 5
"""Clicks that count, the latest ones."""

FADING = 2.0
"""A click counts exp(-t / `FADING`)."""

NEIGHBOURS = 100
"""Entries kept per clicked item and table."""

PRIOR, OWN = "popularity", "own"
"""Names of b and of r among the weights."""


class Table(nn.Module):
    """One table B_k, with w and e.

    Args:
        num_items: N.
    """

    items: Tensor
    weights: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        kept = entries_per_item(NEIGHBOURS, num_items)
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
        names: of the tables, and `OWN` to have r.
    """

    popularity: Tensor
    own: Tensor | None

    def __init__(self, num_items: int, names: Sequence[str]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: Table(num_items) for name in names if name != OWN})
        self.prior = nn.Parameter(torch.zeros(()))  # b
        self.own = nn.Parameter(torch.zeros(2)) if OWN in names else None  # r_last, r_earlier
        self.register_buffer("popularity", torch.zeros(num_items))

    @property
    def by_name(self) -> dict[str, Table]:
        """The tables."""
        return cast(dict[str, Table], dict(self.tables.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it was made with."""
        return (*self.tables, *(() if self.own is None else (OWN,)))

    def fit(self, tables: Mapping[str, ItemItem], clicks: Tensor) -> None:
        """Take over the tables, and the items' clicks in training, int64 (N,)."""
        for name, table in self.by_name.items():
            table.items.copy_(tables[name].items)
            table.weights.copy_(tables[name].weights)
        logs = clicks.double().clamp(min=0.5).log()
        self.popularity.copy_(logs - logs.mean())

    def weigh(self, weights: Mapping[str, Sequence[float]]) -> None:
        """Set b, as `PRIOR` -> (b,), w and e of each table, as name -> (w, e), and `OWN` -> r."""
        with torch.no_grad():
            self.prior.fill_(weights[PRIOR][0])
            if self.own is not None:
                self.own.copy_(self.own.new_tensor(weights[OWN]))
            for name, table in self.by_name.items():
                table.weight.fill_(weights[name][0])
                table.small.fill_(weights[name][1])

    def sums(self, items: Tensor, mask: Tensor) -> Tensor:
        """S of every table, float (B, N, K), of int64 (B, T) under bool (B, T)."""
        return torch.stack([table.sums(items, mask)[0] for table in self.by_name.values()], 2)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """Float (B, N) to be added to the scores of int64 (B, T) under bool (B, T)."""
        added = (self.prior * self.popularity).expand(items.shape[0], -1)
        if self.own is not None:
            added = self._of_own(added, items, mask)
        for table in self.by_name.values():
            added = table(added, items, mask)
        return added

    def _of_own(self, added: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        """`added`, float (B, N), plus r."""
        assert self.own is not None
        last = items.gather(1, mask.sum(1, keepdim=True) - 1) - 1
        own = torch.where(mask, items, items[:, :1]) - 1  # padding repeats the first click
        now = added.gather(1, last)
        added = added.scatter(1, own, added.gather(1, own) + self.own[1])
        return added.scatter(1, last, now + self.own[0])
