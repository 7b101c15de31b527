"""The losses of stage two: next-item cross entropy, alignment and uniformity (LLM4SBR, Eqs. 7, 8, 11, 12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from llm4sbr.fast import fusion
from llm4sbr.fusion.model import Output

Agreement = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""As the function `agreement`."""


class Losses(NamedTuple):
    """Scalars; `total` is what is minimised."""

    total: Tensor
    recommendation: Tensor
    alignment: Tensor
    """Summed over perspectives."""
    uniformity: Tensor
    """Summed over perspectives."""


def joint_loss(
    output: Output, target: Tensor, *, tau: float, weight: float = 1.0, agree: Agreement | None = None
) -> Losses:
    """Eq. 12: cross entropy + the backbone's own loss + tau (alignment + uniformity).

    The recommendation loss is the softmax cross entropy over the catalogue. Eq. 11 as printed has another
    term for items that were not clicked, which neither the released code nor the compared models have.

    Args:
        output: the model's output for B sessions.
        target: int64 (B,), the next items.
        tau: weight of the auxiliary losses.
        weight: weight of the means over these B sessions, if other processes have the rest of the batch.
        agree: a fuser's own auxiliary losses in the place of `agreement`.
    """
    entropy = fusion.cross_entropy if fusion.usable(output.scores) else functional.cross_entropy
    recommendation = weight * entropy(output.scores, target - 1)
    total = recommendation
    if output.encoded.auxiliary is not None:
        total = total + weight * output.encoded.auxiliary
    if output.semantic is None or output.known is None or output.behavioural is None:
        zero = torch.zeros_like(recommendation)
        return Losses(total, recommendation, zero, zero)
    align, uniform = (agree or agreement)(output.behavioural, output.semantic, output.known)
    return Losses(torch.add(total, align + uniform, alpha=tau), recommendation, align, uniform)


def agreement(behavioural: Tensor, semantic: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Eqs. 7 and 8, alignment and uniformity: two scalars, each summed over perspectives.

    Alignment is the mean squared distance of the two vectors of a session; uniformity the log of the mean of
    exp(-2 d^2) over pairs of sessions, averaged over the two modalities. Vectors are scaled to length 1 as in
    DirectAU (Wang et al. 2022), which the paper cites. Only sessions with an intent count; a perspective with
    fewer than two of them is skipped, since the mean over pairs would be undefined.

    Args:
        behavioural: float (B, P, D).
        semantic: float (B, P, D).
        known: bool (B, P), false where no intent is known.
    """
    if fusion.usable(behavioural):
        return fusion.agreement(behavioural, semantic, known)
    count = known.sum(0)  # (P,)
    weight = (known & (count >= 2)).T.to(behavioural.dtype)  # (P, B)
    unit = functional.normalize(torch.stack([behavioural, semantic]).transpose(1, 2), dim=3)  # (2, P, B, D)
    alignment = ((unit[0] - unit[1]).square().sum(2) * weight / count.clamp(min=1).unsqueeze(1)).sum()
    near = (4 * (unit @ unit.mT).clamp(max=1) - 4).exp()  # (2, P, B, B)
    pairs = weight.unsqueeze(2) * weight.unsqueeze(1) * (1 - torch.eye(len(known), device=known.device))
    mean = (near * pairs).sum((2, 3)) / (count * (count - 1)).clamp(min=1)
    return alignment, mean.masked_fill(count < 2, 1).log().mean(0).sum()
