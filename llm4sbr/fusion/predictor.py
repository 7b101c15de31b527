"""Intents for a session that the LLM was not asked about: predicted, or looked up by its last item.

    features = [long; short; titles of the session's items, pooled three ways]
    intents  = W features + b, one map for all perspectives

Titles are used if the fuser has them (`CatalogueFuser.texts`): an LLM's answer depends mostly on the titles
it was shown, which behavioural vectors hardly represent. `training.distillation` computes W and b. The cost
is (2 D + 3 E) P E multiplications per session, little compared to N D for the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm4sbr.protocols import Encoded

RATES = (50.0, 0.7, 0.0)
"""Decay per click of the three weightings for pooling titles: the last one only, recent ones, all equally."""


class Predictor(nn.Module):
    """A linear map from a session's features to its intents.

    Args:
        dim: D.
        perspectives: P.
        text_dim: E.
        titles: whether the titles of the session's items are features.
    """

    rates: Tensor

    def __init__(self, dim: int, perspectives: int, text_dim: int, *, titles: bool) -> None:
        super().__init__()
        self.shape = (perspectives, text_dim)
        width = 2 * dim + (len(RATES) * text_dim if titles else 0)
        self.map = nn.Linear(width, perspectives * text_dim)
        self.register_buffer("rates", torch.tensor(RATES), persistent=False)

    def forward(self, encoded: Encoded, mask: Tensor, texts: Tensor | None) -> Tensor:
        """Intents float (B, P, E); arguments as in `features`."""
        flat: Tensor = self.map(self.features(encoded, mask, texts))
        return flat.view(-1, *self.shape)

    def features(self, encoded: Encoded, mask: Tensor, texts: Tensor | None) -> Tensor:
        """Features, float (B, F).

        Args:
            encoded: the backbone's encoding of the sessions.
            mask: bool (B, T).
            texts: float (B, T, E), title vectors of the clicks, if the predictor uses titles.
        """
        state = torch.cat([encoded.long, encoded.short], 1)
        if texts is None:
            return state
        steps = torch.arange(mask.shape[1], device=mask.device)
        age = (mask.sum(1, keepdim=True) - 1 - steps).clamp(min=0)  # (B, T), 0 for the last click
        weights = torch.exp(-self.rates[:, None] * age.unsqueeze(1)) * mask.unsqueeze(1)  # (B, 3, T)
        pooled = weights / weights.sum(2, keepdim=True) @ texts
        return torch.cat([state, pooled.flatten(1)], 1)


class ItemIntents(nn.Module):
    """The intents of all items, for an LLM that was asked about items: a session has those of its last one.

    Constants, 2 P E bytes per item, zero until `fit`.

    Args:
        num_items: N.
        perspectives: P.
        text_dim: E.
    """

    table: Tensor

    def __init__(self, num_items: int, perspectives: int, text_dim: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(num_items, perspectives, text_dim, dtype=torch.float16))

    def fit(self, intents: Tensor) -> None:
        """Take over float (N, P, E), zero rows where an item has no answer."""
        self.table.copy_(intents)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """Float32 (B, P, E) of int64 (B, T) under bool (B, T)."""
        last = items.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
        return self.table[last - 1].float()
