"""The losses of stage two: next-item cross entropy, alignment and uniformity (LLM4SBR, Eqs. 7, 8, 11, 12)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
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
    align = alignment(output.behavioural, output.semantic, output.known)
    uniform = uniformity(output.behavioural, output.semantic, output.known)
    return Losses(total + tau * (align + uniform), recommendation, align, uniform)


def alignment(behavioural: Tensor, semantic: Tensor, known: Tensor) -> Tensor:
    """Eq. 7: mean squared distance of the two unit vectors of a session, summed over perspectives.

    Vectors are scaled to length 1 as in DirectAU (Wang et al. 2022), which the paper refers to. Only
    sessions with an intent take part; a perspective with fewer than two of them is skipped.

    Args:
        behavioural: float (B, P, D).
        semantic: float (B, P, D).
        known: bool (B, P), false where no intent is known.
    """
    gap = functional.normalize(behavioural, dim=2) - functional.normalize(semantic, dim=2)
    distance = gap.square().sum(2)  # (B, P)
    weight = (known & (known.sum(0) >= 2)).to(distance.dtype)
    return ((distance * weight).sum(0) / weight.sum(0).clamp(min=1)).sum()


def uniformity(behavioural: Tensor, semantic: Tensor, known: Tensor) -> Tensor:
    """Eq. 8: log of the mean of exp(-2 d^2) over pairs of sessions, averaged over the two modalities.

    Unit vectors, sessions with an intent only, summed over perspectives; a perspective without a pair is
    skipped, where the mean would be undefined. Arguments as for `alignment`.
    """
    both = functional.normalize(torch.stack([behavioural, semantic]), dim=3).transpose(1, 2)  # (2, P, B, D)
    squared = (2 - 2 * both @ both.transpose(2, 3)).clamp(min=0)  # (2, P, B, B), for unit vectors
    weight = known.T.to(squared.dtype)  # (P, B)
    pairs = (weight.unsqueeze(2) * weight.unsqueeze(1)).triu(1)  # (P, B, B), each pair once
    count = pairs.sum((1, 2))  # (P,)
    mean = (torch.exp(-2 * squared) * pairs).sum((2, 3)) / count.clamp(min=1)  # (2, P)
    logs = mean.masked_fill(count == 0, 1).log()  # no pair: log 1 = 0, and no gradient
    return logs.mean(0).sum()
