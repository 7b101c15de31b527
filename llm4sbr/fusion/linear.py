"""A linear baseline as a PyTorch module, so that it can be served and exported like a trained model."""

from __future__ import annotations

from torch import Tensor, nn

from llm4sbr.fusion.neighbours import NeighbourScores, decayed
from llm4sbr.protocols import Encoded, Sessions


class Linear(nn.Module):
    """A backbone whose session vectors are already the scores, (B, N).

    Args:
        ids: int64 (N, M), catalogue ids of each item's neighbours, 0 for none.
        weights: float32 (N, M), what a click on the item adds to the neighbours' scores.
        decay: number of clicks after which a click's weight has fallen to 1/e; 0: only the last click counts.
    """

    plain_readout = "long"

    def __init__(self, ids: Tensor, weights: Tensor, *, decay: float) -> None:
        super().__init__()
        self.neighbours = NeighbourScores(ids, weights)
        self.decay = decay

    def fit(self, sessions: Sessions) -> None:
        """Do nothing; the weights come from a baseline that has been fitted."""

    def item_embeddings(self) -> Tensor:
        """Empty vectors, float (N, 0), since scores are not products with item embeddings."""
        return self.neighbours.weights[:, :0]

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Compute the scores, float (B, N), which are returned as session vectors."""
        scores = self.neighbours(items, decayed(mask, self.decay))
        return Encoded(scores, scores)

    def score(self, fused: Tensor, encoded: Encoded) -> Tensor:
        """Return the scores that `forward` computed, float (B, N)."""
        return fused
