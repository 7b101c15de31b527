"""From the states of clicks to a session vector: operations that several backbones share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.fast import backbones

MASKED = -1e4
"""Logit of masked positions: their softmax weight is exactly 0. It is finite even in half precision, so a row
with nothing to attend to (padding) does not become NaN."""


def mean_click(states: Tensor, mask: Tensor) -> Tensor:
    """The mean state of each session's clicks, (B, T, D) -> (B, D)."""
    return (states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension, restricted to places where `mask` is true."""
    return logits.masked_fill(~mask, MASKED).softmax(-1)


def soft_attention(
    keys: Tensor, values: Tensor, query: Tensor, mask: Tensor, to_key: nn.Linear, attention: nn.Linear
) -> Tensor:
    """sum_t a_t values_t with a_t = attention . sigmoid(to_key(keys_t) + query), float (B, D).

    The weights a_t are not normalised; padding has weight 0.

    Args:
        keys: float (B, T, D).
        values: float (B, T, D).
        query: float (B, D).
        mask: bool (B, T).
        to_key: D -> D.
        attention: D -> 1, without a bias.
    """
    if backbones.applies(to_key, keys):
        return backbones.soft_attention(keys, values, query, mask, to_key, attention)
    hidden = torch.sigmoid(query.unsqueeze(1) + to_key(keys))
    weights: Tensor = attention(hidden) * mask.unsqueeze(2)  # (B, T, 1)
    return (weights * values).sum(1)


class ReversedPositionAttention(nn.Module):
    """Soft attention with position embeddings counted from the end of the session.

    With x_1 ... x_m the states of the clicks, p_k the k-th position from the end and s the mean state:

        z_t = tanh(W_1 [x_t; p_{m-t+1}] + b)
        a_t = q . sigmoid(W_2 z_t + W_3 s + c)
        vector = sum_t a_t x_t

    The weights a_t are not normalised. Used by GCE-GNN (Wang et al. 2020, section 4.3) and S2-DHCN (Xia et
    al. 2021, section "Session representation").

    Args:
        dim: D.
        positions: number of position embeddings; clicks further back share the last one.
    """

    def __init__(self, dim: int, *, positions: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(positions, dim))
        self.from_state = nn.Linear(dim, dim, bias=False)
        self.from_position = nn.Linear(dim, dim)
        self.from_place = nn.Linear(dim, dim)
        self.from_mean = nn.Linear(dim, dim, bias=False)
        self.attention = nn.Linear(dim, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) under bool (B, T) -> (B, D)."""
        steps = torch.arange(states.shape[1], device=states.device)
        back = mask.sum(1, keepdim=True) - 1 - steps  # (B, T), 0 at the last click
        back = back.clamp(min=0, max=self.positions.shape[0] - 1)
        # W_1 is applied once per position, not once per click.
        places = functional.embedding(back, self.from_position(self.positions))  # (B, T, D)
        placed = self.from_state(states) + places
        placed = backbones.tanh(placed) if backbones.applies(self, placed) else torch.tanh(placed)
        mean = self.from_mean(mean_click(states, mask))
        return soft_attention(placed, states, mean, mask, self.from_place, self.attention)
