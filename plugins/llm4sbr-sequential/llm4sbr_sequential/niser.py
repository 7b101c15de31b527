"""NISER+: SR-GNN with normalised items and sessions (Gupta, Garg, Malhotra, Vig & Shroff, 2019).

Popular items get long vectors, which inner products favour; with unit lengths only directions count. With e_j
the item embeddings (arXiv 1909.04276, section "Approach"):

    v_j     = dropout(e_j) / |dropout(e_j)|
    tau_t   = GNN(v of the session's graph)_t + p_t     gated graph network of SR-GNN, then positions (the +)
    beta_t  = q . sigmoid(W_1 tau_T + W_2 tau_t + c)
    s       = W_3 [tau_T; sum_t beta_t tau_t]
    score_j = sigma s / |s| . e_j / |e_j|

sigma scales cosines, which lie within -1 and 1, to logits on which a softmax can be confident. It is part of
`item_embeddings`, and s / |s| is `query`, so that fusers, losses and exported tables work as with any
backbone; a fuser replaces W_3.

The authors released no code. Where the paper does not say, this follows RecBole-GNN's implementation:
positions are counted from the session's first click and added after the graph network; dropout (the other +)
precedes normalisation and does not affect the items that are scored. Unlike there, W_3 has no bias, and
clicks beyond the last position share it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import item_table, last_click
from llm4sbr.backbones.readout import soft_attention
from llm4sbr.backbones.sr_gnn import GatedGraph
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions

__all__ = ["NISER"]


class NISER(nn.Module):
    """NISER+: SR-GNN with normalised items and sessions, and positions (Gupta et al., 2019).

    Args:
        num_items: N.
        dim: D.
        steps: rounds of message passing.
        positions: number of position embeddings, counted from the session's start.
        scale: sigma.
        dropout: dropout rate of the item vectors.

    Raises:
        ConfigError: an option is out of range.
    """

    plugin_api = 1

    tunes = {"steps": [1, 2, 3], "scale": (4.0, 32.0), "dropout": (0.0, 0.5)}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        steps: int = 1,
        positions: int = 50,
        scale: float = 16.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if steps < 1 or positions < 1 or scale <= 0:
            raise ConfigError(
                f"niser: steps = {steps}, positions = {positions}, scale = {scale}: expected at least 1, at "
                "least 1, and more than 0"
            )
        self.scale = scale
        self.items = item_table(num_items, dim)
        self.positions = item_table(positions, dim)
        self.dropout = nn.Dropout(dropout)
        self.gnn = GatedGraph(dim, steps=steps)
        self.attend_last = nn.Linear(dim, dim)  # W_1, c
        self.attend_all = nn.Linear(dim, dim, bias=False)  # W_2
        self.attention = nn.Linear(dim, 1, bias=False)  # q
        for layer in (self.gnn, self.attend_last, self.attend_all, self.attention):
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare: each session has its own graph."""

    def item_embeddings(self) -> Tensor:
        """Directions of the items times sigma, float (N, D)."""
        return self.scale * functional.normalize(self.items, dim=1)

    def query(self, fused: Tensor) -> Tensor:
        """The direction of session vectors float (B, D)."""
        return functional.normalize(fused, dim=1)

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): short is tau_T, long the attention over all clicks."""
        table = functional.normalize(self.dropout(self.items), dim=1)  # dropout once per item, as per node
        states = self.gnn(items, mask, table)  # (B, T, D)
        steps = torch.arange(items.shape[1], device=items.device).clamp(max=len(self.positions) - 1)
        states = states + functional.embedding(steps, self.positions)
        short = last_click(states, mask)
        query = self.attend_last(short)
        long = soft_attention(states, states, query, mask, self.attend_all, self.attention)
        return Encoded(long=long, short=short, states=states)
