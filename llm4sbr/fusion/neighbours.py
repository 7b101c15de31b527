"""Scores of a fixed item-item model, from each item's few neighbours, as a part of larger graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NeighbourScores(nn.Module):
    """Scores items by the weights that the clicked items have for them.

    With w (N, N) the items' weights, of which each row has M elements at most, and c_p the click's weight:

        score of j = sum over the clicks p of c_p w[s_p, j]

    Args:
        ids: int64 (N, M), catalogue ids of each item's neighbours, 0 for none.
        weights: float32 (N, M).
    """

    ids: Tensor
    weights: Tensor

    def __init__(self, ids: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", ids)
        self.register_buffer("weights", weights * (ids > 0))

    def forward(self, items: Tensor, clicks: Tensor) -> Tensor:
        """Float (B, N) of int64 (B, T) with the clicks' weights float (B, T), 0 at padding."""
        rows = (items - 1).clamp(min=0)
        ids = self.ids[rows].flatten(1)  # (B, T M)
        values = (self.weights[rows] * clicks.unsqueeze(2)).flatten(1)
        scores = torch.zeros(len(items), len(self.ids) + 1, dtype=values.dtype, device=values.device)
        return scores.scatter_add(1, ids, values)[:, 1:]  # column 0 is nobody


def decayed(mask: Tensor, decay: Tensor | float) -> Tensor:
    """exp(-age / decay) of each click, float (B, T), 0 at padding; the last click has age 0.

    Args:
        mask: bool (B, T), right-padded.
        decay: over how many clicks the weight falls to 1/e.
    """
    age = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)
    return (-age.clamp(min=0) / decay).exp() * mask
