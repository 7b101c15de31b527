"""S-POP: popularity within the current session (Hidasi et al. 2016, section 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llm4sbr.protocols import Sessions


class SessionPopularity:
    """Scores an item by its clicks in the session; ties, such as all items not clicked, by popularity.

    Popularity enters as its rank scaled to 0..1, where the authors' released code has n / (n + 1): the same
    order, and single precision keeps it apart however often items are clicked.

    Args:
        num_items: N.
    """

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.popularity = torch.zeros(num_items)

    def fit(self, sessions: Sessions) -> None:
        """Rank the items by their clicks; equally popular items share a rank."""
        counts = torch.bincount(sessions.items - 1, minlength=self.num_items).numpy()
        distinct, rank = np.unique(counts, return_inverse=True)
        self.popularity = torch.from_numpy(rank / len(distinct)).to(torch.float32)

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """Clicks in the session + a popularity below 1, float32 (B, N)."""
        scores = self.popularity.repeat(items.shape[0], 1)
        return scores.scatter_add_(1, (items - 1).clamp(min=0), mask.to(torch.float32))
