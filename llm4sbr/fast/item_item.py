"""The item-item model's part of the scores with its gradient written out: work for its neighbours, not for N.

    f_j = w log(1 + s_j / e)    s_j = sum of d_t b_tm over the neighbours m of click t that are item j

With g the gradient of f, and r_tm = g_j w / (e + s_j) at neighbour m of click t, which is item j:

    df/dd_t = sum over m of r_tm b_tm    df/de = -(1 / e) sum over t, m of r_tm d_t b_tm    df/dw = g . f / w
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def added(columns: Tensor, entries: Tensor, ages: Tensor, weight: Tensor, small: Tensor, size: int) -> Tensor:
    """f, float (B, N).

    Args:
        columns: int64 (B, A, M), the neighbours' columns, 0..N-1; any one where the entry is 0.
        entries: float (B, A, M), b; gets no gradient.
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
        told = entries * ages.unsqueeze(2)
        sums = entries.new_zeros(entries.shape[0], size).scatter_add_(1, flat, told.flatten(1))
        there = sums.gather(1, flat)
        found = sums.scatter_(1, flat, torch.log1p(there / small) * weight)  # twice the same is once
        ctx.save_for_backward(flat, entries, told, there, weight, small, found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, entries, told, there, weight, small, found = ctx.saved_tensors
        rates = (gradient.gather(1, flat) * weight / (there + small)).view_as(entries)
        to_ages = torch.linalg.vecdot(rates, entries)
        to_small = -torch.vdot(rates.flatten(), told.flatten()) / small
        to_weight = torch.vdot(gradient.flatten(), found.flatten()) / weight
        return None, None, to_ages, to_weight, to_small, None
