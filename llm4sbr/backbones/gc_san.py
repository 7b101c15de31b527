"""GC-SAN: session graph, then self-attention over the clicks (Xu et al., IJCAI 2019).

With h_1 ... h_n the clicks' states from SR-GNN's gated graph network, k blocks of

    F = softmax((H W_Q) (H W_K)^T / sqrt(D)) (H W_V)
    E = ReLU(F W_1 + b_1) W_2 + b_2 + F

each applied to the result of the previous one, and the session's vector

    S = omega E_n + (1 - omega) h_n

The attention covers all clicks of the session and uses no positions; order comes from the graph alone. The
authors released no code. Where the paper does not say: dropout follows ReLU, all weights are initialised
uniformly within 1 / sqrt(D) as in SR-GNN, and there is one head. The last block computes only the row of the
last click, since nothing else is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llm4sbr.backbones.clicks import last_click
from llm4sbr.backbones.readout import masked_softmax
from llm4sbr.backbones.sr_gnn import GatedGraph
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions


class GCSAN(nn.Module):
    """Session encoder over item ids; `long` is S, `short` is h_n.

    Args:
        num_items: N.
        dim: D.
        steps: rounds of message passing.
        blocks: k, self-attention blocks.
        omega: weight of the self-attention, 0..1; the paper finds 0.4 to 0.8 best.
        dropout: dropout rate of the blocks' hidden units.
    """

    plain_readout = "long"

    tunes = {"steps": [1, 2], "blocks": [1, 2], "omega": (0.0, 1.0), "dropout": (0.0, 0.8)}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        steps: int = 1,
        blocks: int = 1,
        omega: float = 0.6,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if blocks < 1 or not 0 <= omega <= 1:
            raise ConfigError(f"gc-san: blocks = {blocks}, omega = {omega}: at least 1, and from 0 to 1")
        self.omega = omega
        self.items = nn.Parameter(torch.empty(num_items, dim))
        self.gnn = GatedGraph(dim, steps=steps)
        self.blocks = nn.ModuleList(SelfAttention(dim, dropout=dropout) for _ in range(blocks))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare: each session has its own graph."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T)."""
        states = self.gnn(items, mask, self.items)  # (B, T, D)
        short = last_click(states, mask)
        seen = states
        for block in self.blocks[:-1]:
            seen = block(seen, seen, mask)
        end = last_click(seen, mask).unsqueeze(1)  # (B, 1, D)
        attended: Tensor = self.blocks[-1](end, seen, mask).squeeze(1)
        return Encoded(long=self.omega * attended + (1 - self.omega) * short, short=short, states=states)


class SelfAttention(nn.Module):
    """One block: attention, then two layers with a residual connection.

    Args:
        dim: D.
        dropout: dropout rate of the hidden units.
    """

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Queries (B, Q, D) attend to states (B, T, D) under bool (B, T) -> (B, Q, D)."""
        logits = self.query(queries) @ self.key(states).transpose(1, 2) / math.sqrt(states.shape[2])
        found = masked_softmax(logits, mask.unsqueeze(1)) @ self.value(states)
        mapped: Tensor = self.outer(self.dropout(torch.relu(self.inner(found)))) + found
        return mapped
