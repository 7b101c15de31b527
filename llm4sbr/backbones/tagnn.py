"""TAGNN: SR-GNN with a different session vector for every target item (Yu et al., SIGIR 2020).

With h_1 ... h_T the clicks' states from SR-GNN's gated graph network and v_n a target's embedding:

    beta_nt = softmax_t(v_n . W h_t)                      how much click t matters to target n
    s_n     = W_3 [sum_t beta_nt h_t; h_T; long]          long: SR-GNN's attention over all clicks
    score_n = s_n . v_n

W_3 splits into a map U of the first part and the readout that every backbone has, so that

    score_n = fused . v_n + sum_t beta_nt (U h_t . v_n)

where `fused` is the readout of the plain model, or the fuser's output. Both inner products are matrix
products with the catalogue; the (B, N, D) vectors s_n are never built.

Unlike the authors' released code: padding takes part in no softmax; the attention weights of `long` are not
normalised (theirs are, against the paper's equation); U is learned as in the paper (they add the target part
without a map). As there, the attention runs over clicks, so an item clicked twice counts twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm4sbr.backbones.readout import MASKED
from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.protocols import Encoded, Sessions

BLOCK = 512
"""Items scored at once: limits the attention to (B, T, BLOCK), or to 64 blocks for a large catalogue."""
KEPT = 2**24
"""Maximum number of attention weights (B x T x N) that a training step keeps for its backward pass; above it
they are recomputed, which takes a third longer."""


class TAGNN(nn.Module):
    """Session encoder with its own scoring function.

    Args:
        num_items: N.
        dim: D.
        steps: rounds of message passing.
    """

    tunes = {"steps": [1, 2, 3]}

    def __init__(self, num_items: int, dim: int, *, steps: int = 1) -> None:
        super().__init__()
        self.sessions = SRGNN(num_items, dim, steps=steps)
        self.target_key = nn.Linear(dim, dim, bias=False)  # W
        self.target_value = nn.Linear(dim, dim, bias=False)  # U
        for layer in (self.target_key, self.target_value):
            nn.init.uniform_(layer.weight, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare: each session has its own graph."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.sessions.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T), as SR-GNN does."""
        encoded: Encoded = self.sessions(items, mask)
        return encoded._replace(mask=mask)

    def score(self, fused: Tensor, encoded: Encoded) -> Tensor:
        """Scores float (B, N) from session vectors (B, D) and the encoded clicks."""
        states, mask = encoded.states, encoded.mask
        assert states is not None  # `forward` always sets both
        assert mask is not None
        keys, values = self.target_key(states), self.target_value(states)  # (B, T, D)
        closed = torch.where(mask, 0.0, MASKED).unsqueeze(2)  # (B, T, 1)
        items = self.item_embeddings()
        parts = [
            self._attended(block, keys, values, closed)
            for block in torch.split(items, max(BLOCK, math.ceil(len(items) / 64)))
        ]
        return fused @ items.T + torch.cat(parts, 1)

    def _attended(self, block: Tensor, keys: Tensor, values: Tensor, closed: Tensor) -> Tensor:
        rows = keys.shape[0] * keys.shape[1]
        if self.training and rows * self.item_embeddings().shape[0] > KEPT:
            again: Tensor = checkpoint(
                attended_scores, block, keys, values, closed, use_reentrant=False, preserve_rng_state=False
            )
            return again
        return attended_scores(block, keys, values, closed)


def attended_scores(targets: Tensor, keys: Tensor, values: Tensor, closed: Tensor) -> Tensor:
    """sum_t softmax_t(v_n . keys_t + closed_t) (v_n . values_t), float (B, n).

    Args:
        targets: float (n, D), v_n.
        keys: float (B, T, D).
        values: float (B, T, D).
        closed: float (B, T, 1), 0 at clicks and `MASKED` at padding.
    """
    weights = (keys @ targets.T + closed).softmax(1)  # (B, T, n)
    return (weights * (values @ targets.T)).sum(1)
