"""First and last step of most session encoders: embed the clicks, take the state at the last click."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def embed(items: Tensor, table: Tensor) -> Tensor:
    """The embedding of every click, float (B, T, D).

    Padding gets the first item's embedding, so that the table needs no padding row; callers mask it.

    Args:
        items: int64 (B, T), right-padded with 0.
        table: float (N, D), row i for item i + 1.
    """
    return functional.embedding((items - 1).clamp(min=0), table)


def last_click(states: Tensor, mask: Tensor) -> Tensor:
    """The state at each session's last click, float (B, D).

    With right padding no padding precedes a click, so the states of a causal encoder do not depend on how
    much padding the batch has.

    Args:
        states: float (B, T, D).
        mask: bool (B, T), true at clicks.
    """
    last = (mask.sum(1) - 1).clamp(min=0)[:, None, None]  # (B, 1, 1)
    return states.gather(1, last.expand(-1, -1, states.shape[2])).squeeze(1)


def item_table(rows: int, dim: int) -> nn.Parameter:
    """A float (rows, dim) embedding table, initialised uniformly within 1 / sqrt(dim) as in SR-GNN."""
    table = nn.Parameter(torch.empty(rows, dim))
    nn.init.uniform_(table, -(dim**-0.5), dim**-0.5)
    return table
