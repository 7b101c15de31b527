"""STAMP: short-term attention and memory priority (Liu, Zeng, Mokhosi & Zhang, KDD 2018).

With x_1..x_T the embeddings of the clicks, section 3 of the paper:

    m_s = mean of x_1..x_T                                  general interest
    m_t = x_T                                               current interest
    a_i = w_0 . sigmoid(W_1 x_i + W_2 x_T + W_3 m_s + b_a)
    m_a = sum_i a_i x_i
    h_s = tanh(W_s m_a + b_s),  h_t = tanh(W_t m_t + b_t)
    score of item j = <h_s, h_t, x_j> = sum over the D entries of h_s * h_t * x_j

The trilinear product is a dot product with the session vector long = h_s * h_t; short = h_t.

Deviations:

- The paper applies a sigmoid to the score before the softmax and sums binary cross entropies; as in the
  authors' released code the score itself goes into a softmax cross entropy.
- The released code adds m_s to m_a, has no b_s and b_t, and keeps embeddings within the unit ball; this code
  follows the paper.
- Parameters are initialised uniformly instead of Gaussian.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.backbones.readout import mean_click, soft_attention
from llm4sbr.protocols import Encoded, Sessions


class STAMP(nn.Module):
    """Session encoder without recurrence: attention over the clicks, driven by the last one.

    Args:
        num_items: N.
        dim: D.
    """

    plain_readout = "long"

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        self.items = item_table(num_items, dim)
        self.attend_all = nn.Linear(dim, dim, bias=False)  # W_1
        self.attend_last = nn.Linear(dim, dim, bias=False)  # W_2
        self.attend_mean = nn.Linear(dim, dim)  # W_3, b_a
        self.attention = nn.Linear(dim, 1, bias=False)  # w_0
        self.general = nn.Linear(dim, dim)  # W_s, b_s
        self.current = nn.Linear(dim, dim)  # W_t, b_t

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): long is h_s * h_t, short is h_t."""
        clicks = embed(items, self.items)  # (B, T, D)
        last = last_click(clicks, mask)  # (B, D)
        drive = self.attend_last(last) + self.attend_mean(mean_click(clicks, mask))
        attended = soft_attention(clicks, clicks, drive, mask, self.attend_all, self.attention)
        current = torch.tanh(self.current(last))
        return Encoded(long=torch.tanh(self.general(attended)) * current, short=current)
