"""CTRL (Li et al. 2023), session side: the id model learns from text by contrast, and is served without it.

    sim(a, b) = sum over m of max over m' of a_m . b_m'        a_m: the m-th of M parts of a, of length 1
    L(a, b)   = - mean over k of log exp(sim(a_k, b_k) / t) / sum over j of exp(sim(a_k, b_j) / t)
    loss      = (L(text, id) + L(id, text)) / 2,   j and k: the sessions of a batch

The contrast of arXiv 2306.02841, with the id model's session vector in the place of the vector of a table's
row, and the session's text (what `infer` gives: titles with `item-text`, else an LLM's answers) in that of
the row written as a sentence.

Differences from the paper: the text model stays fixed and only a linear map of its vectors is trained; the
contrast and the recommendation loss are minimised together, `train.tau` being the weight of the first, where
the paper first aligns and then tunes. Parts are scaled to length 1, which the paper leaves open.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.errors import ConfigError


class CTRL(nn.Module):
    """W [h_1; ...; h_P] of the behavioural vectors; text only reaches them through the contrastive loss.

    Args:
        dim: D.
        perspectives: P.
        parts: M, which divides D.
        temperature: t.

    Raises:
        ConfigError: D cannot be divided into M parts, or the temperature is not positive.
    """

    suggests: ClassVar[dict[str, Any]] = {"train.tau": 1.0}

    def __init__(self, dim: int, perspectives: int, *, parts: int = 4, temperature: float = 0.1) -> None:
        super().__init__()
        if parts < 1 or dim % parts:
            raise ConfigError(f"ctrl: parts = {parts}: must divide train.dim = {dim}")
        if temperature <= 0:
            raise ConfigError(f"ctrl: temperature = {temperature}: must be positive")
        self.parts, self.temperature = parts, temperature
        self.out = nn.Linear(perspectives * dim, dim, bias=False)
        nn.init.uniform_(self.out.weight, -(dim**-0.5), dim**-0.5)

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D)."""
        fused: Tensor = self.out(behavioural.flatten(1))
        return fused

    def agreement(self, behavioural: Tensor, semantic: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The contrastive loss, summed over perspectives, in the place of alignment; and 0 for uniformity.

        Only sessions with a text count; a perspective with fewer than two of them is skipped.

        Args:
            behavioural: float (B, P, D).
            semantic: float (B, P, D).
            known: bool (B, P), false where there is no text.
        """
        found = behavioural.sum() * 0
        for place in range(known.shape[1]):
            own = known[:, place]
            if int(own.sum()) > 1:
                found = found + self._contrast(semantic[own, place], behavioural[own, place])
        return found, torch.zeros_like(found)

    def _contrast(self, text: Tensor, ids: Tensor) -> Tensor:
        """The mean of both directions for float (n, D) and (n, D)."""
        target = torch.arange(len(text), device=text.device)
        split = [functional.normalize(one.view(len(one), self.parts, -1), dim=2) for one in (text, ids)]
        products = torch.einsum("kmd,jnd->kjmn", *split)  # (n, n, M, M)
        forth = products.amax(3).sum(2) / self.temperature
        back = products.amax(2).sum(2).T / self.temperature
        return (functional.cross_entropy(forth, target) + functional.cross_entropy(back, target)) / 2
