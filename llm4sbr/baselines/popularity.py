"""Popularity: recommends the most clicked items to everyone; every model should be better."""

from __future__ import annotations

import torch
from torch import Tensor

from llm4sbr.protocols import Sessions


class Popularity:
    """Scores an item by its number of clicks in the training sessions, equally for every session.

    Args:
        num_items: N.
    """

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.counts = torch.zeros(num_items)

    def fit(self, sessions: Sessions) -> None:
        """Count the clicks of each item."""
        self.counts = torch.bincount(sessions.items - 1, minlength=self.num_items).to(torch.float32)

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """The same counts for every session, float32 (B, N)."""
        return self.counts.expand(items.shape[0], -1)
