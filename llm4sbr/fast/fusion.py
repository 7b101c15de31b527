"""Operations of the fusion with hand-written gradients, for training on a CPU.

As in `fast.backbones`, `fusion.model`, `fusers` and `losses` have the plain formulas, which are used
everywhere else; tests compare both. Session vectors are small, so the number of operations matters, not their
size. Intents are constants and need no gradient.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llm4sbr.fast.onednn import applies, product, unwatched, usable, weight_gradient

__all__ = ["agreement", "applies", "cross_entropy", "gated", "semantic", "usable"]

TINY = 1e-30
"""Negligible next to a pair's value, which is at least exp(-8); prevents 0 / 0."""

LOG2_E = math.log2(math.e)


def semantic(intents: Tensor, known: Tensor, text: nn.Linear) -> Tensor:
    """Eq. 6: maps intents float (B, P, E) to the hidden size, float (B, P, D); zero for unknown ones.

    Args:
        intents: zero where none is known; gets no gradient.
        known: bool (B, P).
        text: E -> D.
    """
    return cast(Tensor, _Semantic.apply(intents, known, text.weight, text.bias))  # type: ignore[no-untyped-call]


def gated(behavioural: Tensor, semantic: Tensor, gate: Tensor, out: nn.Linear) -> Tensor:
    """`fusers.Gated`, float (B, D).

    Args:
        behavioural: float (B, P, D).
        semantic: float (B, P, D).
        gate: float (P, D).
        out: P D -> D, without a bias.
    """
    return cast(Tensor, _Gated.apply(behavioural, semantic, gate, out.weight))  # type: ignore[no-untyped-call]


def cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of float (B, N) of -log softmax at int64 (B,), with one exponential per score."""
    return cast(Tensor, _CrossEntropy.apply(scores, target))  # type: ignore[no-untyped-call]


def agreement(behavioural: Tensor, semantic: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """`losses.agreement`, alignment and uniformity; arguments as there."""
    return cast(tuple[Tensor, Tensor], _Agreement.apply(behavioural, semantic, known))  # type: ignore[no-untyped-call]


class _Semantic(torch.autograd.Function):
    @staticmethod
    @unwatched
    def forward(ctx: Any, intents: Tensor, known: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = intents.flatten(0, 1)
        shown = known.flatten().to(rows.dtype)
        ctx.save_for_backward(rows, shown)
        return product(rows, weight, bias).mul_(shown.unsqueeze(1)).view(*known.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, shown = ctx.saved_tensors
        flat = gradient.flatten(0, 1)  # unknown rows must not count for the bias
        return None, None, weight_gradient(rows, flat), shown @ flat


class _Gated(torch.autograd.Function):
    @staticmethod
    @unwatched
    def forward(ctx: Any, behavioural: Tensor, semantic: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
        opened = (behavioural + semantic).sigmoid_()
        scale = torch.linalg.vecdot(opened, gate).unsqueeze(2)  # (B, P, 1)
        scaled = (behavioural * scale).flatten(1)
        ctx.save_for_backward(behavioural, gate, weight, opened, scale, scaled)
        return product(scaled, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        behavioural, gate, weight, opened, scale, scaled = ctx.saved_tensors
        to_scaled = product(gradient, weight.t()).view(behavioural.shape)
        to_gates = opened * torch.linalg.vecdot(to_scaled, behavioural).unsqueeze(2)  # (B, P, D)
        to_semantic = torch.addcmul(to_gates, to_gates, opened, value=-1).mul_(gate)  # sigmoid's derivative
        to_behavioural = torch.addcmul(to_semantic, to_scaled, scale)
        return to_behavioural, to_semantic, to_gates.sum(0), weight_gradient(scaled, gradient)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    @unwatched
    def forward(ctx: Any, scores: Tensor, target: Tensor) -> Tensor:
        place = target.unsqueeze(1)
        top = scores.amax(1, keepdim=True)
        odds = (scores - top).mul_(LOG2_E).exp2_()
        total = odds.sum(1, keepdim=True)
        ctx.save_for_backward(odds, total, place)
        return (total.log() + top - scores.gather(1, place)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        odds, total, place = ctx.saved_tensors
        share = gradient / len(total)
        to_scores = odds * (share / total)
        return to_scores.scatter_add_(1, place, -share.expand_as(total)), None


class _Agreement(torch.autograd.Function):
    """Both losses from one set of vectors u, of length 1 where an intent is known and 0 elsewhere.

    With w_i = 1 where one is known, and e_ij = exp(4 u_i . u_j - 4), 0 for i = j, the mean of
    exp(-2 |u_i - u_j|^2) over pairs is sum_ij w_i w_j e_ij / (n (n - 1)), and the gradient of its log by u_i
    is 8 sum_j e_ij u_j / sum_ij w_i w_j e_ij.
    """

    @staticmethod
    @unwatched
    def forward(ctx: Any, behavioural: Tensor, semantic: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        weight = known.T.to(behavioural.dtype)  # (P, B)
        count = weight.sum(1)
        others = count - 1
        possible = (count * others).add_(TINY)
        share = others.div_(possible)  # (P,), 1 / n; 0 if only one session is known
        unit = torch.stack([behavioural.transpose(0, 1), semantic.transpose(0, 1)])  # (2, P, B, D)
        inverse = weight / torch.linalg.vector_norm(unit, dim=3).clamp_(min=1e-12)  # (2, P, B)
        first, second = unit.mul_(inverse.unsqueeze(3))
        gap = first - second
        alignment = torch.linalg.vector_norm(gap, dim=(1, 2)).square_() @ share
        flat = unit.flatten(0, 1)
        near = torch.baddbmm(_others(len(known), unit.dtype), flat, flat.mT, alpha=4 * LOG2_E)
        near.exp2_()  # (2 P, B, B); takes a third of the time of exp
        to_known = (near.view(2, *weight.shape, -1) * weight.unsqueeze(1)).sum(3)
        pairs = (to_known * weight).sum(2).add_(TINY)  # (2, P), each pair twice
        ctx.save_for_backward(unit, inverse, gap, share, near, pairs)
        return alignment, (pairs / possible).log_().sum().mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_alignment: Tensor, to_uniformity: Tensor) -> tuple[Tensor | None, ...]:
        unit, inverse, gap, share, near, pairs = ctx.saved_tensors
        to_unit = torch.bmm(near, unit.flatten(0, 1)).view(unit.shape)
        to_unit.mul_((to_uniformity * 4 / pairs)[:, :, None, None])  # half of 8: the mean of two modalities
        first, second = to_unit
        pull = gap * (to_alignment * 2 * share)[:, None, None]
        first += pull
        second -= pull
        # A change along u does not change the direction, so this component of the gradient is removed.
        along = torch.linalg.vecdot(to_unit, unit).unsqueeze(3)
        to_unit.addcmul_(unit, along, value=-1).mul_(inverse.unsqueeze(3))
        return first.transpose(0, 1), second.transpose(0, 1), None


@lru_cache(maxsize=8)
def _others(count: int, dtype: torch.dtype) -> Tensor:
    """Float (count, count): -4 log2(e), and minus infinity on the diagonal, to exclude pairs with itself."""
    return torch.full((count, count), -4 * LOG2_E, dtype=dtype).fill_diagonal_(-torch.inf)
