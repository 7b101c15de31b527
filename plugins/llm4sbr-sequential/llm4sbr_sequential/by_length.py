"""What grows with the square of the session length is computed for sessions of similar length together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["by_length", "traced"]


def by_length(compute: Callable[[Tensor, Tensor], Tensor], items: Tensor, mask: Tensor, rows: int) -> Tensor:
    """`compute(items, mask)`, float (B, T, D), `rows` sessions at a time, each group as wide as its longest.

    Args:
        compute: from sessions that do not depend on each other to states of their clicks.
        items: int64 (B, T), right-padded.
        mask: bool (B, T), true at clicks.
        rows: sessions of a group.
    """
    lengths = mask.sum(1)
    order = lengths.argsort(stable=True)
    found = []
    for part in torch.split(order, rows):
        width = max(1, int(lengths[part].max()))
        states = compute(items[part, :width], mask[part, :width])
        found.append(functional.pad(states, (0, 0, 0, items.shape[1] - width)))
    return torch.cat(found)[order.argsort()]


def traced() -> bool:
    """Whether the model is being exported, so that nothing may depend on the example input."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
