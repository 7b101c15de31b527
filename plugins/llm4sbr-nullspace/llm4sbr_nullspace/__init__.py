"""A fuser that represents items by title vectors, plus learned embeddings in directions that titles lack.

The idea is that of AlphaFuse (Hu et al. 2025, arXiv 2504.19218): a language model's item vectors are
decomposed into principal components; the strong ones are kept fixed, and an embedding per item is learned in
place of the weak ones, so that neither dominates the other. Here it is a fuser: it replaces the item vectors
used for scoring and leaves the backbone unchanged. It is written from the paper's description; the paper also
uses these vectors as the encoder's input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm4sbr.errors import ConfigError

__all__ = ["NullSpace"]


class NullSpace(nn.Module):
    """Scores items by the strong components of their titles and by learned embeddings.

        score_j = q . [s_j ; e_j]    q = W [v ; sum_p w_p i_p A]    v = U [H_1 + h_1; ...; H_P + h_P]

    s_j = A^T (t_j - m) are the R strongest principal components of the title vector t_j, each scaled to
    standard deviation 1 (constant; the row space), e_j the item's learned embedding of size D - R, initially
    zero (the null space); H and h are behavioural and semantic vectors, i_p the intents. The backbone's own
    scores are not used. A session without an intent is scored by its behavioural vectors.

    Args:
        dim: D.
        perspectives: P.
        num_items: N.
        text_dim: E.
        share: share of the D dimensions for titles: R = share * D, at most E.

    Raises:
        ConfigError: a share outside 0 to 1.
    """

    plugin_api = 1
    needs_catalogue = True
    titles: Tensor
    mean: Tensor
    axes: Tensor

    def __init__(
        self, dim: int, perspectives: int, *, num_items: int, text_dim: int, share: float = 0.5
    ) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ConfigError(f"train.fuser_options.share = {share}: expected more than 0 and less than 1")
        rank = max(1, min(round(share * dim), text_dim, dim - 1))
        self.register_buffer("titles", torch.zeros(num_items, rank))
        self.register_buffer("mean", torch.zeros(text_dim))
        self.register_buffer("axes", torch.zeros(text_dim, rank))
        self.ids = nn.Parameter(torch.zeros(num_items, dim - rank))
        self.vector = nn.Linear(perspectives * dim, dim, bias=False)
        self.query = nn.Linear(dim, dim, bias=False)
        self.told = nn.Parameter(torch.ones(perspectives))
        for layer in (self.vector, self.query):
            nn.init.uniform_(layer.weight, -(dim**-0.5), dim**-0.5)

    def fit(self, titles: Tensor, clicks: Tensor) -> None:
        """Decompose the catalogue's text vectors, float (N, E); `clicks` is not used.

        Axes that a warm start brought stay, since `query` refers to them.
        """
        rows = titles.double()
        if not self.axes.any():
            mean = rows.mean(0)
            squares, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))  # ascending
            rank = self.axes.shape[1]
            deviation = squares[-rank:].clamp(min=1e-12).sqrt()
            self.mean.copy_(mean)
            self.axes.copy_(directions[:, -rank:] / deviation)
        self.titles.copy_((rows - self.mean.double()) @ self.axes.double())

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D)."""
        fused: Tensor = self.vector((behavioural + semantic).flatten(1))
        return fused

    def rescore(self, scores: Tensor, fused: Tensor, intents: Tensor | None) -> Tensor:
        """Scores (B, N) by titles and learned embeddings; the backbone's `scores` are not used.

        `fused` is (B, D), `intents` (B, p, E) with p <= P and zero rows for unknown intents, or None.
        """
        query = self.query(fused)
        rank = self.axes.shape[1]
        strong = query[:, :rank].contiguous()
        if intents is not None:
            known = intents.abs().sum(2, keepdim=True) > 0
            seen = ((intents - self.mean) @ self.axes) * known  # (B, p, R)
            strong = strong + (seen * self.told[: seen.shape[1]].unsqueeze(1)).sum(1) / rank
        scored: Tensor = strong @ self.titles.T + query[:, rank:] @ self.ids.T
        return scored
