"""Atten-Mixer: attention at several levels of user intent, without a graph (Zhang et al., WSDM 2023).

The session is read by L queries: the query of level l is computed from the last l clicks as a set. With
x_1 ... x_T the clicks' unit-length embeddings, for levels l = 1 ... L and heads h = 1 ... H:

    q_l      = W_l sum of the last l clicks x + b_l, scaled to length 1      deep sets: without their order
    a_lht    = softmax_t(2 sigmoid((W_q q_l)_h . (W_k x_t)_h))               one attention map per level
    A_ht     = (sum_l a_lht^p)^(1/p)                                         Lp pooling: the levels' mixture
    m        = LayerNorm([sum_t softmax_t(2 A_ht) (W_v x_t)_h; all heads])
    s        = W [m; x_T] + b
    score_j  = sigma cos(s, e_j)

The larger p, the more the level with the highest attention to a click decides its weight; p is learned,
starting from 4. Cosines are computed as in NISER: `query` returns the session's direction, `item_embeddings`
the items' directions times sigma.

Deviations from the authors' released code (Peiyance/Atten-Mixer-torch):

- A level sums its clicks, as the paper's deep sets do; the code concatenates them in order, and uses padding
  for missing clicks of a short session.
- Each head reads every level. The code reshapes across levels and heads, so that its heads are mixtures.
- Each query is scaled by its own length; the code divides by lengths across levels.
- p is fixed there; here it is learned, and padding is masked in every softmax.
- Heads have D / H entries rounded up, so that H need not divide D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.backbones.readout import masked_softmax
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions

__all__ = ["AttenMixer", "LevelAttention"]

SHARPNESS = 2.0
"""Sharpness (inverse temperature) of both softmaxes, as in the released code."""


class AttenMixer(nn.Module):
    """Atten-Mixer: attention from several levels of user intent, without a graph (Zhang et al., WSDM 2023).

    Args:
        num_items: N.
        dim: D.
        levels: L, the number of clicks that the widest level sees.
        heads: H.
        power: initial p.
        scale: sigma.
        dropout: dropout rate of item vectors and attention weights.

    Raises:
        ConfigError: an option is out of range.
    """

    plugin_api = 1
    plain_readout = "long"

    tunes = {"scale": (4.0, 32.0), "dropout": (0.0, 0.5)}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        levels: int = 7,
        heads: int = 8,
        power: float = 4.0,
        scale: float = 16.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if levels < 1 or heads < 1 or power < 1 or scale <= 0:
            raise ConfigError(
                f"atten-mixer: levels = {levels}, heads = {heads}, power = {power}, scale = {scale}: "
                "expected at least 1, at least 1, at least 1, and more than 0"
            )
        self.scale = scale
        self.items = item_table(num_items, dim)
        self.dropout = nn.Dropout(dropout)
        self.attention = LevelAttention(dim, levels=levels, heads=heads, power=power, dropout=dropout)
        self.out = nn.Linear(self.attention.width + dim, dim)  # W, b

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare."""

    def item_embeddings(self) -> Tensor:
        """Directions of the items times sigma, float (N, D)."""
        return self.scale * functional.normalize(self.items, dim=1)

    def query(self, fused: Tensor) -> Tensor:
        """The direction of session vectors float (B, D)."""
        return functional.normalize(fused, dim=1)

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): long is s, short the last click's embedding x_T."""
        table = functional.normalize(self.items, dim=1)
        clicks = functional.normalize(self.dropout(embed(items, table)), dim=2)  # (B, T, D)
        short = last_click(clicks, mask)
        long = self.out(torch.cat([self.attention(clicks, mask), short], 1))
        return Encoded(long=long, short=short, items=self.scale * self.dropout(table))


class LevelAttention(nn.Module):
    """Attention maps of every level, mixed by Lp pooling.

    Args:
        dim: D.
        levels: L.
        heads: H.
        power: initial p.
        dropout: dropout rate of the weights.
    """

    def __init__(self, dim: int, *, levels: int, heads: int, power: float, dropout: float) -> None:
        super().__init__()
        self.levels, self.heads = levels, heads
        self.width = heads * -(-dim // heads)
        bound = dim**-0.5
        self.level_weight = nn.Parameter(torch.empty(levels, dim, dim).uniform_(-bound, bound))  # W_l
        self.level_bias = nn.Parameter(torch.empty(levels, 1, dim).uniform_(-bound, bound))  # b_l
        self.to_query = nn.Linear(dim, self.width)
        self.to_key = nn.Linear(dim, self.width)
        self.to_value = nn.Linear(dim, self.width)
        self.power = nn.Parameter(torch.tensor(power))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(self.width)

    def forward(self, clicks: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) under bool (B, T) -> m, float (B, W), W being H times the width of a head."""
        query = self._split(self.to_query(self._queries(clicks, mask)))
        key, value = self._split(self.to_key(clicks)), self._split(self.to_value(clicks))
        maps = torch.sigmoid(query @ key.transpose(2, 3))  # (B, H, L, T)
        maps = masked_softmax(SHARPNESS * maps, mask[:, None, None])
        mixture = self._pool(maps.masked_fill(~mask[:, None, None], 1.0))  # 1: the power of 0 has no gradient
        weights = self.dropout(masked_softmax(SHARPNESS * mixture, mask.unsqueeze(1)))  # (B, H, T)
        found = (weights.unsqueeze(2) @ value).flatten(1)  # (B, W)
        normed: Tensor = self.norm(found)
        return normed

    def _queries(self, clicks: Tensor, mask: Tensor) -> Tensor:
        """Query vector of each level, float (B, L, D), unit length."""
        steps = torch.arange(mask.shape[1], device=mask.device)
        age = mask.sum(1, keepdim=True) - 1 - steps  # (B, T), 0 at the last click
        reach = torch.arange(self.levels, device=mask.device).unsqueeze(1)
        known = (age.unsqueeze(1) <= reach) & mask.unsqueeze(1)  # (B, L, T)
        sums = (known.to(clicks.dtype) @ clicks).transpose(0, 1)  # (L, B, D)
        return functional.normalize(sums @ self.level_weight + self.level_bias, dim=2).transpose(0, 1)

    def _pool(self, maps: Tensor) -> Tensor:
        """(sum_l a_l^p)^(1/p) of float (B, H, L, T), none of them 0: (B, H, T)."""
        top = maps.amax(2, keepdim=True)  # factored out, so that no power underflows
        return top.squeeze(2) * (maps / top).pow(self.power).sum(2).pow(1 / self.power)

    def _split(self, vectors: Tensor) -> Tensor:
        """(B, S, W) -> (B, H, S, W / H)."""
        batch, rows, _ = vectors.shape
        return vectors.reshape(batch, rows, self.heads, -1).transpose(1, 2)
