"""What most session encoders begin and end with: the vectors of the clicks, and the state at the last one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def embed(items: Tensor, table: Tensor) -> Tensor:
    """The row of every click, float (B, T, D).

    Padding borrows the first item's row, so that the table needs none of its own; callers mask it out.

    Args:
        items: int64 (B, T), right-padded with 0.
        table: float (N, D), row i for item i + 1.
    """
    return functional.embedding((items - 1).clamp(min=0), table)


def last_click(states: Tensor, mask: Tensor) -> Tensor:
    """The state at each session's last click, float (B, D).

    With right padding nothing comes before the clicks, so what a causal encoder holds there is exact
    however wide the batch is.

    Args:
        states: float (B, T, D).
        mask: bool (B, T), true at clicks.
    """
    last = (mask.sum(1) - 1).clamp(min=0)[:, None, None]  # (B, 1, 1)
    return states.gather(1, last.expand(-1, -1, states.shape[2])).squeeze(1)


def item_table(rows: int, dim: int) -> nn.Parameter:
    """A float (rows, dim) table, uniform within 1 / sqrt(dim), as SR-GNN and its successors start."""
    table = nn.Parameter(torch.empty(rows, dim))
    nn.init.uniform_(table, -(dim**-0.5), dim**-0.5)
    return table
