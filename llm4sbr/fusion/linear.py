"""A linear baseline as a PyTorch module, so that it can be served and exported like a trained model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm4sbr.fusion.item_item import ItemItem, latest, summed_at_once, summed_in_turn
from llm4sbr.protocols import Encoded, Sessions


class Linear(nn.Module):
    """A backbone whose session vectors are already the scores, (B, N).

    With B the item-item model, and click p of a session s_1 .. s_L:

        score of j = sum over p of exp(-(L - p) / decay) B[s_p, j]

    Args:
        model: the largest entries of B.
        decay: number of clicks after which a click's weight has fallen to 1/e; 0: only the last click counts.
    """

    plain_readout = "long"

    most_clicks: int | None = None
    """Set while a graph is exported to a runtime that cannot add in a scatter: the clicks that it reads."""

    items: Tensor
    weights: Tensor

    def __init__(self, model: ItemItem, *, decay: float) -> None:
        super().__init__()
        self.register_buffer("items", model.items)
        self.register_buffer("weights", model.weights)
        self.decay = decay

    def fit(self, sessions: Sessions) -> None:
        """Do nothing; the weights come from a baseline that has been fitted."""

    def item_embeddings(self) -> Tensor:
        """Empty vectors, float (N, 0), since scores are not products with item embeddings."""
        return self.weights[:, :0]

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Compute the scores, float (B, N), which are returned as session vectors."""
        if self.most_clicks is None:
            rows, clicks, summed = (items - 1).clamp(min=0), decayed(mask, self.decay), summed_at_once
        else:
            count = self.most_clicks if self.decay else 1
            rows, there = latest(items, mask, count)
            clicks = _fading(torch.arange(count, device=mask.device), self.decay) * there
            summed = summed_in_turn
        scores = summed(self.items[rows], self.weights[rows] * clicks.unsqueeze(2), len(self.items))
        return Encoded(scores, scores)

    def score(self, fused: Tensor, encoded: Encoded) -> Tensor:
        """Return the scores that `forward` computed, float (B, N)."""
        return fused


def decayed(mask: Tensor, decay: float) -> Tensor:
    """exp(-age / decay) of each click, float (B, T), 0 at padding; the last click has age 0.

    Args:
        mask: bool (B, T), right-padded.
        decay: number of clicks after which the weight is 1/e; 0: the last click alone.
    """
    age = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)
    return _fading(age, decay) * mask


def _fading(age: Tensor, decay: float) -> Tensor:
    return (-age.clamp(min=0) / decay).exp() if decay else (age == 0).float()
