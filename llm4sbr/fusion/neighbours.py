"""Scores of a fixed item-item model that has few neighbours per item, as a PyTorch module."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NeighbourScores(nn.Module):
    """Scores items by the weights of the clicked items.

    With a matrix w (N, N) of which each row has at most M entries, and c_p the weight of click p:

        score of j = sum over the clicks p of c_p w[s_p, j]

    Args:
        ids: int64 (N, M), catalogue ids of each item's neighbours, 0 for none.
        weights: float32 (N, M), the entries of w at these neighbours.
    """

    ids: Tensor
    weights: Tensor

    def __init__(self, ids: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", ids)
        self.register_buffer("weights", weights * (ids > 0))

    def forward(self, items: Tensor, clicks: Tensor) -> Tensor:
        """Compute scores, float (B, N).

        Args:
            items: int64 (B, T), right-padded.
            clicks: float (B, T), the weight of each click, 0 at padding.
        """
        rows = (items - 1).clamp(min=0)
        ids = self.ids[rows].flatten(1)  # (B, T M)
        values = (self.weights[rows] * clicks.unsqueeze(2)).flatten(1)
        scores = torch.zeros(len(items), len(self.ids) + 1, dtype=values.dtype, device=values.device)
        return scores.scatter_add(1, ids, values)[:, 1:]  # missing neighbours (id 0) end up in column 0


def decayed(mask: Tensor, decay: float) -> Tensor:
    """The factor exp(-age / decay) of each click, float (B, T), 0 at padding; the last click has age 0.

    Args:
        mask: bool (B, T), true at clicks.
        decay: number of clicks after which a click's weight has fallen to 1/e; 0: only the last click counts.
    """
    age = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)
    weights = (-age.clamp(min=0) / decay).exp() if decay else (age == 0).float()
    return weights * mask
