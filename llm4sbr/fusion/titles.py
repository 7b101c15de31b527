"""The catalogue's title vectors as constants of a model, and the weights of what intents say about them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIRST_WEIGHT = 4.0
"""Weight of an intent's cosines to begin with. They differ by a few tenths, logits by a few units."""

HASTE = 10.0
"""The logarithm of such a weight learns so much faster than other parameters: intents that say nothing are to
be silenced within an epoch or two."""


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
        """Take over float (N, E), in catalogue order."""
        self.vectors.copy_(vectors)

    def forward(self, query: Tensor) -> Tensor:
        """Inner products of float (B, E) with every title, float (B, N)."""
        return query @ self.vectors.to(query.dtype).T

    def of(self, items: Tensor) -> Tensor:
        """The titles of items int64 (B, T), float (B, T, E); of the padding's 0 any one."""
        return self.vectors[(items - 1).clamp(min=0)].float()


class IntentWeights(nn.Module):
    """A positive weight per perspective for what an intent says about titles.

    Args:
        perspectives: P.
        first: what they begin with.
    """

    def __init__(self, perspectives: int, *, first: float = FIRST_WEIGHT) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((perspectives,), first).log() / HASTE)

    def forward(self, intents: Tensor) -> Tensor:
        """The weighted sum of float (B, p, E), p <= P, over perspectives: float (B, E)."""
        weights = (self.log[: intents.shape[1]] * HASTE).exp().unsqueeze(1)
        return (intents * weights).sum(1)
