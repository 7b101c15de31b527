"""A linear item-item model as a model of its own, recommended from and exported as others are."""

from __future__ import annotations

from torch import Tensor, nn

from llm4sbr.fusion.neighbours import NeighbourScores, decayed
from llm4sbr.protocols import Encoded, Sessions


class Linear(nn.Module):
    """Stands where a backbone stands; its session vectors are the scores themselves, (B, N).

    Args:
        ids: int64 (N, M), catalogue ids of each item's neighbours, 0 for none.
        weights: float32 (N, M), what a click on the item gives them.
        decay: over how many clicks the weight of a click falls to 1/e; 0: the last click alone.
    """

    plain_readout = "long"

    def __init__(self, ids: Tensor, weights: Tensor, *, decay: float) -> None:
        super().__init__()
        self.neighbours = NeighbourScores(ids, weights)
        self.decay = decay

    def fit(self, sessions: Sessions) -> None:
        """Nothing: it was made of a fitted model."""

    def item_embeddings(self) -> Tensor:
        """None, float (N, 0)."""
        return self.neighbours.weights[:, :0]

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Scores float (B, N) in the place of vectors."""
        scores = self.neighbours(items, decayed(mask, self.decay))
        return Encoded(scores, scores)

    def score(self, fused: Tensor, encoded: Encoded) -> Tensor:
        """What `forward` computed, float (B, N)."""
        return fused
