"""The losses of stage two: next-item cross entropy, alignment and uniformity (LLM4SBR, Eqs. 7, 8, 11, 12)."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from llm4sbr.fusion.model import Output


class Losses(NamedTuple):
    """Scalars; `total` is what is minimised."""

    total: Tensor
    recommendation: Tensor
    alignment: Tensor
    """Summed over perspectives."""
    uniformity: Tensor
    """Summed over perspectives."""


def joint_loss(output: Output, target: Tensor, *, tau: float, weight: float = 1.0) -> Losses:
    """Eq. 12: cross entropy + the backbone's own loss + tau (alignment + uniformity).

    The recommendation loss is the softmax cross entropy over the catalogue; Eq. 11 as printed adds a term
    for the items not clicked, which neither the released code nor the models compared with have.

    Args:
        output: what the model returned for B sessions.
        target: int64 (B,), the next items.
        tau: weight of the auxiliary task.
        weight: of the means over these B sessions, where other processes have the rest of the batch.
    """
    recommendation = weight * functional.cross_entropy(output.scores, target - 1)
    total = recommendation
    if output.encoded.auxiliary is not None:
        total = total + weight * output.encoded.auxiliary
    if output.semantic is None or output.known is None or output.behavioural is None:
        zero = torch.zeros_like(recommendation)
        return Losses(total, recommendation, zero, zero)
    align, uniform = agreement(output.behavioural, output.semantic, output.known)
    return Losses(total + tau * (align + uniform), recommendation, align, uniform)


def agreement(behavioural: Tensor, semantic: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Eqs. 7 and 8, alignment and uniformity: two scalars, each summed over perspectives.

    Alignment is the mean squared distance of the two vectors of a session; uniformity the log of the mean of
    exp(-2 d^2) over pairs of sessions, averaged over the two modalities. Vectors are scaled to length 1 as in
    DirectAU (Wang et al. 2022), which the paper refers to. Only sessions with an intent take part; a
    perspective with fewer than two of them is skipped, where the mean of pairs would be undefined.

    Args:
        behavioural: float (B, P, D).
        semantic: float (B, P, D).
        known: bool (B, P), false where no intent is known.
    """
    return cast(tuple[Tensor, Tensor], _Agreement.apply(behavioural, semantic, known))  # type: ignore[no-untyped-call]


class _Agreement(torch.autograd.Function):
    """Both losses from one set of unit vectors u, their gradients written out.

    With w_i = 1 where an intent is known and e_ij = exp(-2 |u_i - u_j|^2) = exp(4 u_i . u_j - 4), the mean
    over pairs is sum_ij w_i w_j e_ij / (n (n - 1)) without the diagonal, and the gradient of its log by u_i
    is 8 sum_j w_i w_j e_ij u_j / sum_ij w_i w_j e_ij.
    """

    @staticmethod
    def forward(ctx: Any, behavioural: Tensor, semantic: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.stack([behavioural, semantic]).transpose(1, 2)  # (2, P, B, D)
        length = torch.linalg.vector_norm(both, dim=3, keepdim=True).clamp_(min=1e-12)
        unit = both / length
        weight = known.T.to(unit.dtype)  # (P, B)
        count = weight.sum(1, keepdim=True)  # (P, 1)
        weight = weight * (count >= 2)
        gap = unit[0] - unit[1]  # (P, B, D)
        alignment = (gap.square().sum(2) * weight / count.clamp(min=1)).sum()
        near = (unit @ unit.transpose(2, 3)).clamp_(max=1).sub_(1).mul_(4).exp_()  # (2, P, B, B)
        near *= weight.unsqueeze(2) * weight.unsqueeze(1)
        near.diagonal(dim1=2, dim2=3).zero_()
        pairs = near.sum((2, 3))  # (2, P), each pair twice
        mean = (pairs / (count * (count - 1)).squeeze(1).clamp(min=1)).masked_fill(count.squeeze(1) < 2, 1)
        ctx.save_for_backward(unit, length, gap, weight, count, near, pairs)
        return alignment, mean.log().mean(0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_alignment: Tensor, to_uniformity: Tensor) -> tuple[Tensor | None, ...]:
        unit, length, gap, weight, count, near, pairs = ctx.saved_tensors
        # Without a pair `near` is all 0.
        scale = to_uniformity * 4 / torch.where(pairs > 0, pairs, 1)  # half of 8: the mean of two modalities
        to_unit = (near @ unit).mul_(scale[:, :, None, None])  # (2, P, B, D)
        pull = gap * (to_alignment * 2 * weight / count.clamp(min=1)).unsqueeze(2)
        to_unit[0] += pull
        to_unit[1] -= pull
        along = (to_unit * unit).sum(3, keepdim=True)
        to_both = (to_unit - unit * along).div_(length).transpose(1, 2)  # (2, B, P, D)
        return to_both[0], to_both[1], None
