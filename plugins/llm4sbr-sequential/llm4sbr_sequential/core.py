"""CORE: sessions and items in one vector space (Hou, Hu, Zhang & Zhao, SIGIR 2022).

A session is a weighted mean of its items' embeddings and nothing else, so that both are in the same space;
the weights of the clicks are learned. With x_1 ... x_T the embeddings of the clicks, section 3 of the paper:

    F        = transformer([x_t + p_t])                 representation-consistent encoder (CORE-trm)
    alpha    = softmax_t(w . f_t)                       without blocks: alpha_t = 1 / T (CORE-ave)
    h        = sum_t alpha_t x_t
    score_j  = cos(h, dropout(e_j)) / tau               robust distance measuring

The cosine is an inner product of the session's direction (`query`) with the items' directions divided by tau
(`item_embeddings`), so that fusers, losses and exported tables work as with any other backbone. A fuser
replaces h by its own vector, which is no longer a mean of items; only its direction matters.

A mean of few items is nearest to those items: `own_items_first`. That suits data with repeated clicks; for
other data, exclude the session's own items from its list, as serving does.

Deviations from the authors' released code:

- The transformer is llm4sbr's SASRec: LayerNorm comes before each map, the inner layer has width D, with
  ReLU. As there, a click attends to earlier clicks only.
- Positions are counted from the end of the session; clicks further back than `max_length` share the last one.
- The map w to weights has no bias, nor has the LayerNorm before it: a softmax ignores both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.backbones.readout import MASKED, masked_softmax, mean_click
from llm4sbr.backbones.sasrec import Block
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions

__all__ = ["CORE", "ClickWeights"]


class CORE(nn.Module):
    """CORE: a session is a weighted mean of its items, compared by cosine (Hou et al., SIGIR 2022).

    Args:
        num_items: N.
        dim: D.
        blocks: transformer blocks that compute the clicks' weights; 0 weighs them equally (CORE-ave).
        heads: heads per block; must divide D.
        max_length: number of position embeddings.
        temperature: tau, by which cosines are divided.
        item_dropout: dropout rate of the click embeddings and of the items they are compared with.
        dropout: dropout rate inside the transformer.

    Raises:
        ConfigError: an option is out of range.
    """

    plugin_api = 1
    plain_readout = "long"
    own_items_first = True

    tunes = {"item_dropout": (0.0, 0.5), "dropout": (0.0, 0.8)}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        blocks: int = 2,
        heads: int = 2,
        max_length: int = 50,
        temperature: float = 0.07,
        item_dropout: float = 0.2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if blocks < 0 or max_length < 1 or temperature <= 0:
            raise ConfigError(
                f"core: blocks = {blocks}, max_length = {max_length}, temperature = {temperature}: expected "
                "at least 0, at least 1, and more than 0"
            )
        if blocks and (heads < 1 or dim % heads):
            raise ConfigError(f"core: heads = {heads}: must divide the width, train.dim = {dim}")
        self.temperature = temperature
        self.items = item_table(num_items, dim)
        self.dropout = nn.Dropout(item_dropout)
        self.weights = None
        if blocks:
            self.weights = ClickWeights(
                dim, blocks=blocks, heads=heads, max_length=max_length, dropout=dropout
            )

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare."""

    def item_embeddings(self) -> Tensor:
        """Directions of the items over tau, float (N, D)."""
        return functional.normalize(self.items, dim=1) / self.temperature

    def query(self, fused: Tensor) -> Tensor:
        """The direction of session vectors float (B, D)."""
        return functional.normalize(fused, dim=1)

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): long is h, short the last click's embedding."""
        clicks = self.dropout(embed(items, self.items))  # (B, T, D)
        if self.weights is None:
            long = mean_click(clicks, mask)
        else:
            long = (self.weights(clicks, mask).unsqueeze(2) * clicks).sum(1)
        compared = functional.normalize(self.dropout(self.items), dim=1) / self.temperature
        return Encoded(long=long, short=last_click(clicks, mask), items=compared)


class ClickWeights(nn.Module):
    """Weights of the clicks: a causal transformer over the clicks, and a softmax.

    Args:
        dim: D.
        blocks: transformer blocks.
        heads: heads per block; must divide D.
        max_length: number of position embeddings.
        dropout: dropout rate.
    """

    def __init__(self, dim: int, *, blocks: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.positions = item_table(max_length, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads=heads, dropout=dropout) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(dim, bias=False)
        self.weight = nn.Linear(dim, 1, bias=False)

    def forward(self, clicks: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) under bool (B, T) -> (B, T), rows sum to 1."""
        steps = torch.arange(mask.shape[1], device=mask.device)
        back = (mask.sum(1, keepdim=True) - 1 - steps).clamp(0, len(self.positions) - 1)  # 0 at the last one
        states = self.dropout(self.norm(clicks + functional.embedding(back, self.positions)))
        hidden = ~(mask.unsqueeze(1) & (steps.unsqueeze(1) >= steps))  # (B, T, T)
        bias = torch.where(hidden, MASKED, 0.0).unsqueeze(1)  # (B, 1, T, T), for all heads
        for block in self.blocks:
            states = block(states, states, bias)
        return masked_softmax(self.weight(self.last_norm(states)).squeeze(2), mask)
