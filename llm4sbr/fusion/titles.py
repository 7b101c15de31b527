"""Building blocks of catalogue fusers: title vectors as constants, and learned weights for intents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIRST_WEIGHT = 4.0
"""Initial weight of an intent's cosines: these differ by a few tenths, logits by a few units."""

WEIGHTS_RATE = 10.0
"""Factor on the learning rate of a weight's logarithm, so that useless intents get a small weight within an
epoch or two. The parameter is stored divided by it, which has this effect with Adam."""


class TitleVectors(nn.Module):
    """The catalogue's text vectors: constants, zero until `fit`.

    Args:
        num_items: N.
        text_dim: E.
    """

    vectors: Tensor

    def __init__(self, num_items: int, text_dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_items, text_dim, dtype=torch.float16))

    def fit(self, vectors: Tensor) -> None:
        """Store float (N, E), in catalogue order."""
        self.vectors.copy_(vectors)

    def forward(self, query: Tensor) -> Tensor:
        """Inner products of float (B, E) with every title, float (B, N)."""
        return query @ self.vectors.to(query.dtype).T

    def of(self, items: Tensor) -> Tensor:
        """The title vectors of items int64 (B, T), float (B, T, E); arbitrary at padding."""
        return self.vectors[(items - 1).clamp(min=0)].float()


class IntentWeights(nn.Module):
    """A positive, learned weight per perspective for intents that score titles.

    Args:
        perspectives: P.
        first: initial weight.
    """

    def __init__(self, perspectives: int, *, first: float = FIRST_WEIGHT) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((perspectives,), first).log() / WEIGHTS_RATE)

    def forward(self, intents: Tensor) -> Tensor:
        """The weighted sum of float (B, p, E), p <= P, over perspectives: float (B, E)."""
        weights = (self.log[: intents.shape[1]] * WEIGHTS_RATE).exp().unsqueeze(1)
        return (intents * weights).sum(1)
