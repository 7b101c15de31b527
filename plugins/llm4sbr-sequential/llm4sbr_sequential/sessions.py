"""What backbones here share: sessions of similar length computed together, and each item once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["by_length", "first_clicks", "traced"]


def by_length(compute: Callable[[Tensor, Tensor], Tensor], items: Tensor, mask: Tensor, rows: int) -> Tensor:
    """`compute(items, mask)`, `rows` sessions at a time, each group as wide as its longest.

    Args:
        compute: from sessions that do not depend on each other to states of their clicks, float (B, T, D), or
            to vectors of the sessions, float (B, D).
        items: int64 (B, T), right-padded.
        mask: bool (B, T), true at clicks.
        rows: sessions of a group.
    """
    lengths = mask.sum(1)
    order = lengths.argsort(stable=True)
    found = []
    for part in torch.split(order, rows):
        width = max(1, int(lengths[part].max()))
        one = compute(items[part, :width], mask[part, :width])
        found.append(functional.pad(one, (0, 0, 0, items.shape[1] - width)) if one.ndim == 3 else one)
    return torch.cat(found)[order.argsort()]


def traced() -> bool:
    """Whether the model is being exported, so that nothing may depend on the example input."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def first_clicks(same: Tensor) -> Tensor:
    """Bool (B, T): t is the first click on its item, from `same_item`; one click per node."""
    earlier = same.to(torch.get_default_dtype()).tril(-1).sum(2)
    return same.any(2) & (earlier == 0)
