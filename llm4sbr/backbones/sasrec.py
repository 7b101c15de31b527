"""SASRec: causal self-attention over the clicks (Kang & McAuley, ICDM 2018).

With E the embeddings of the last L clicks plus one learned vector per position, and each of the blocks

    S = E + Dropout(softmax(Q K' / sqrt(D)) V),   Q, K, V = linear maps of LayerNorm(E), past clicks only
    E = S + Dropout(W_2 ReLU(W_1 LayerNorm(S) + b_1) + b_2)

the session vector is LayerNorm(E_last), and the score of item j its dot product with item j's embedding.

Positions are counted from the end of the session: position 0 is the last click. This is equivalent to the
authors' left-padded input of fixed length, and does not depend on padding. Clicks further back than
`max_length` are ignored.

Deviations from the authors' released code:

- It normalises the queries only, and adds the normalised vectors in the residual sum; here LayerNorm comes
  before all three maps and outside the sum, as in the paper. The maps have no biases.
- It scales item embeddings by sqrt(D); the paper and this code do not.
- It trains every position with one sampled negative. Here only the last position is trained, by the softmax
  cross entropy over the whole catalogue, like every backbone here. So the last block computes the last
  position only, which changes no result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.backbones.readout import MASKED
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions


class SASRec(nn.Module):
    """Session encoder: a causal transformer's state at the last click.

    Args:
        num_items: N.
        dim: D.
        blocks: attention blocks, one or more.
        heads: heads per block; must divide D.
        max_length: L, number of most recent clicks used.
        dropout: dropout rate.

    Raises:
        ConfigError: an option is out of range.
    """

    plain_readout = "long"

    tunes = {"blocks": [1, 2, 3], "dropout": (0.0, 0.8)}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        blocks: int = 2,
        heads: int = 1,
        max_length: int = 50,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if blocks < 1 or max_length < 1:
            raise ConfigError(f"sasrec: blocks = {blocks}, max_length = {max_length}: both must be 1 or more")
        if heads < 1 or dim % heads:
            raise ConfigError(f"sasrec: heads = {heads}: must divide the width, train.dim = {dim}")
        self.items = item_table(num_items, dim)
        self.positions = item_table(max_length, dim)
        self.blocks = nn.ModuleList(Block(dim, heads=heads, dropout=dropout) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): long is the last state, short the last embedding."""
        clicks = embed(items, self.items)  # (B, T, D)
        steps = torch.arange(items.shape[1], device=items.device)
        back = mask.sum(1, keepdim=True) - 1 - steps  # (B, T), 0 at the last click, negative at padding
        seen = mask & (back < len(self.positions))
        states = clicks + functional.embedding(back.clamp(0, len(self.positions) - 1), self.positions)
        states = self.dropout(states)
        hidden = ~(seen.unsqueeze(1) & (steps.unsqueeze(1) >= steps))  # (B, T, T)
        bias = torch.where(hidden, MASKED, 0.0).unsqueeze(1)  # (B, 1, T, T), for all heads
        *inner, final = self.blocks
        for block in inner:
            states = block(states, states, bias)
        bias = torch.where(seen, 0.0, MASKED)[:, None, None]  # (B, 1, 1, T)
        long = final(last_click(states, mask).unsqueeze(1), states, bias).squeeze(1)
        return Encoded(long=self.norm(long), short=last_click(clicks, mask))


class Block(nn.Module):
    """Attention and a two-layer network, each after a LayerNorm and with a residual connection.

    Args:
        dim: D.
        heads: must divide D.
        dropout: dropout rate.
    """

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.norm_network = nn.LayerNorm(dim)
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, at: Tensor, states: Tensor, bias: Tensor) -> Tensor:
        """States (B, S, D) at S positions attend to `states` (B, T, D) under bias (B, 1, S, T)."""
        keys = self.norm_attention(states)
        query, key, value = map(
            self._split, (self.query(self.norm_attention(at)), self.key(keys), self.value(keys))
        )
        found = functional.scaled_dot_product_attention(query, key, value, bias)  # (B, heads, S, D / heads)
        at = at + self.dropout(found.transpose(1, 2).flatten(2))
        mapped: Tensor = at + self.dropout(self.network(self.norm_network(at)))
        return mapped

    def _split(self, vectors: Tensor) -> Tensor:
        batch, length, _ = vectors.shape
        return vectors.reshape(batch, length, self.heads, -1).transpose(1, 2)
