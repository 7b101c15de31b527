"""S-POP: popularity within the current session (Hidasi et al. 2016, section 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llm4sbr.protocols import Sessions


class SessionPopularity:
    """Scores an item by its clicks in the session; items with equally many, often none, by popularity.

    Popularity is added as a rank scaled to 0..1. The authors' released code adds n / (n + 1) for n clicks,
    which gives the same order, but float32 cannot tell the values apart for large n.

    Args:
        num_items: N.
    """

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.popularity = torch.zeros(num_items)

    def fit(self, sessions: Sessions) -> None:
        """Rank the items by their number of clicks; equally popular items have equal ranks."""
        counts = torch.bincount(sessions.items - 1, minlength=self.num_items).numpy()
        distinct, rank = np.unique(counts, return_inverse=True)
        self.popularity = torch.from_numpy(rank / len(distinct)).to(torch.float32)

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """Clicks in the session plus a popularity below 1, float32 (B, N)."""
        scores = self.popularity.repeat(items.shape[0], 1)
        return scores.scatter_add_(1, (items - 1).clamp(min=0), mask.to(torch.float32))
