"""NARM: a recurrent encoder with attention over its own states (Li, Ren, Chen, Ren, Lian & Ma, CIKM 2017).

With h_1..h_T the states of a GRU over the clicks, sections 3.2 to 3.4 of the paper:

    c_global = h_T
    a_j      = v . sigmoid(A_1 h_T + A_2 h_j)
    c_local  = sum_j a_j h_j
    score of item i = e_i . B [c_global; c_local]

The decoder B is folded into the session vector, long = B [c_global; c_local], so that a score is a dot
product of D-wide vectors.

Deviations from the authors' released code:

- The attention weights are not normalised, as in the paper; the code takes a softmax over them.
- sigmoid instead of its piecewise linear approximation, and PyTorch's GRU (see `recurrent`).
- Items and states have one width D (50 and 100 there).
- Parameters are initialised uniformly instead of orthogonal and Gaussian.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.backbones.readout import soft_attention
from llm4sbr.backbones.recurrent import GRU
from llm4sbr.protocols import Encoded, Sessions


class NARM(nn.Module):
    """Session encoder: the last recurrent state and an attention over all of them.

    Args:
        num_items: N.
        dim: D, of items and states.
        embedding_dropout: dropout rate of the click embeddings.
        state_dropout: dropout rate of [c_global; c_local].
    """

    plain_readout = "long"

    tunes = {"embedding_dropout": (0.0, 0.8), "state_dropout": (0.0, 0.8)}

    def __init__(
        self, num_items: int, dim: int, *, embedding_dropout: float = 0.25, state_dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.items = item_table(num_items, dim)
        self.gru = GRU(dim)
        self.attend_last = nn.Linear(dim, dim, bias=False)  # A_1
        self.attend_all = nn.Linear(dim, dim, bias=False)  # A_2
        self.attention = nn.Linear(dim, 1, bias=False)  # v
        self.decode = nn.Linear(2 * dim, dim, bias=False)  # B
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.state_dropout = nn.Dropout(state_dropout)

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): long as above, short the last click's embedding."""
        clicks = embed(items, self.items)  # (B, T, D)
        states = self.gru(self.embedding_dropout(clicks))  # (B, T, D)
        overall = last_click(states, mask)  # (B, D)
        local = soft_attention(
            states, states, self.attend_last(overall), mask, self.attend_all, self.attention
        )
        long = self.decode(self.state_dropout(torch.cat([overall, local], 1)))
        return Encoded(long=long, short=last_click(clicks, mask))
