"""What the item-item model adds to the scores (`fusion.item_item`), with a gradient derived by hand.

Few of the N items are neighbours of a session's clicks. Both the result and the gradient are computed for
these only, where autograd would compute the logarithm and its gradient for all (B, N).

    f_j = w log(1 + s_j / e)    s_j = sum of d_t b_tm over the neighbours m of click t that are item j

With G the loss, g = dG/df its gradient, and r_tm = g_j w / (e + s_j) for neighbour m of click t, item j:

    dG/dd_t = sum over m of r_tm b_tm
    dG/de   = -(1 / e) sum over t, m of r_tm d_t b_tm
    dG/dw   = g . f / w
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def added(columns: Tensor, entries: Tensor, ages: Tensor, weight: Tensor, small: Tensor, size: int) -> Tensor:
    """Compute f, float (B, N); gradients flow to `ages`, `weight` and `small`.

    Args:
        columns: int64 (B, A, M), the neighbours' item indices, 0..N-1; any where the entry is 0.
        entries: float (B, A, M), b.
        ages: float (B, A), d.
        weight: w, a scalar.
        small: e, a scalar.
        size: N.
    """
    found = _Added.apply(columns, entries, ages, weight, small, size)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, columns: Tensor, entries: Tensor, ages: Tensor, weight: Tensor, small: Tensor, size: int
    ) -> Tensor:
        flat = columns.flatten(1)
        terms = entries * ages.unsqueeze(2)
        sums = entries.new_zeros(entries.shape[0], size).scatter_add_(1, flat, terms.flatten(1))
        reached = sums.gather(1, flat)
        # An item that is a neighbour of several clicks gets the same value several times.
        found = sums.scatter_(1, flat, torch.log1p(reached / small) * weight)
        ctx.save_for_backward(flat, entries, terms, reached, weight, small, found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, entries, terms, reached, weight, small, found = ctx.saved_tensors
        rates = (gradient.gather(1, flat) * weight / (reached + small)).view_as(entries)
        to_ages = torch.linalg.vecdot(rates, entries)
        to_small = -torch.vdot(rates.flatten(), terms.flatten()) / small
        to_weight = torch.vdot(gradient.flatten(), found.flatten()) / weight
        return None, None, to_ages, to_weight, to_small, None
