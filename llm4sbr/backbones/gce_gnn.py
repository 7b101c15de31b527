"""GCE-GNN: the session's own graph and a graph of all sessions (Wang et al., SIGIR 2020).

Session level (section 4.2). The graph's nodes attend to their neighbours and to themselves, with a vector
a_r for each of four relations: self, in (j -> i only), out (i -> j only), both.

    e_ij = LeakyReLU(a_r(i,j) . (h_i * h_j))    h^s_i = sum_j softmax_j(e_ij) h_j

Global level (section 4.1). N(i) are an item's neighbours in the graph of all training sessions, w_ij the
number of times the two co-occur, s the mean embedding of the session's clicks:

    pi_ij = q_1 . LeakyReLU(W_1 [s * h_j; w_ij])    h^N_i = sum_j softmax_j(pi_ij) h_j
    h^g_i = ReLU(W_2 [h_i; h^N_i])

Session vector (section 4.3): h'_i = dropout(h^g_i) + h^s_i, then soft attention with reversed positions
(`ReversedPositionAttention`); scores are its products with the embeddings h.

`fit` finds every item's strongest neighbours and their weights once; both are saved with the model. The
attention weights of h^N depend on the session through s, so every forward pass computes them per click.

Unlike the authors' released code: one hop (they use a second on one data set); an item with fewer than S
neighbours has only those, theirs repeats some; no item is its own global neighbour; w_ij is divided by the
item's largest weight, since raw counts of a dense catalogue saturate the softmax; two items that follow each
other in both directions have the relation `both` in both directions (theirs only in one).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, last_click
from llm4sbr.backbones.global_graph import co_occurrence
from llm4sbr.backbones.graph import same_item
from llm4sbr.backbones.readout import ReversedPositionAttention, masked_softmax, mean_click
from llm4sbr.protocols import Encoded, Sessions

SLOPE = 0.2
"""Negative slope of LeakyReLU, as in the released code."""


class GCEGNN(nn.Module):
    """Session encoder over item ids; `long` is its session vector, `short` the last click's h'.

    Args:
        num_items: N.
        dim: D.
        neighbours: S, global neighbours of an item.
        window: clicks of a session at most this far apart are neighbours in the global graph.
        dropout: dropout rate of the global states.
        positions: number of position embeddings, counted from the end of a session.
    """

    plain_readout = "long"
    item_ids = ("neighbours",)
    neighbours: Tensor
    weights: Tensor

    tunes = {"dropout": (0.0, 0.8), "neighbours": [6, 12, 24]}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        neighbours: int = 12,
        window: int = 3,
        dropout: float = 0.5,
        positions: int = 200,
    ) -> None:
        super().__init__()
        self.window = window
        self.items = nn.Parameter(torch.empty(num_items, dim))
        self.local = RelationAttention(dim)
        self.world = NeighbourAttention(dim)
        self.dropout = nn.Dropout(dropout)
        self.readout = ReversedPositionAttention(dim, positions=positions)
        self.register_buffer("neighbours", torch.zeros(num_items, neighbours, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(num_items, neighbours))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def fit(self, sessions: Sessions) -> None:
        """Find every item's global neighbours in the training sessions."""
        count, size = self.neighbours.shape
        found = co_occurrence(sessions, num_items=count, window=self.window, size=size)
        self.neighbours.copy_(found.items)
        self.weights.copy_(found.weights / found.weights[:, :1].clamp(min=1))

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T)."""
        own = embed(items, self.items)  # (B, T, D)
        ids = embed(items, self.neighbours)  # (B, T, S)
        near = embed(ids, self.items)  # (B, T, S, D)
        strength = embed(items, self.weights)  # (B, T, S)
        world = self.world(own, near, strength, ids > 0, mean_click(own, mask))
        states = self.dropout(world) + self.local(own, items, mask)
        return Encoded(long=self.readout(states, mask), short=last_click(states, mask), states=states)


class RelationAttention(nn.Module):
    """The session level: attention along the edges of each session's graph.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.relations = nn.Parameter(torch.empty(4, dim))  # self, in, out, both

    def forward(self, own: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); clicks on one item have the same state, as in `graph.py`."""
        scaled = own.unsqueeze(1) * self.relations.unsqueeze(1)  # (B, 4, T, D)
        logits = functional.leaky_relu(scaled @ own.unsqueeze(1).transpose(2, 3), SLOPE)  # (B, 4, T, T)
        return relation_weights(logits, items, mask) @ own


def relation_weights(logits: Tensor, items: Tensor, mask: Tensor) -> Tensor:
    """Weights of a session's items for each click, float (B, T, T); an item's stand at its first click.

    Args:
        logits: float (B, 4, T, T), by relation: self, in, out, both.
        items: int64 (B, T), right-padded.
        mask: bool (B, T), true at clicks.
    """
    same = same_item(items, mask)  # (B, T, T)
    follows = same[:, :, :-1].to(logits.dtype) @ same[:, 1:].to(logits.dtype) > 0  # s after t
    precedes = follows.transpose(1, 2)
    first = same.to(logits.dtype).tril(-1).sum(2) == 0  # (B, T): each node once, at its first click
    oneself, into, out, both = logits.unbind(1)
    linked = torch.where(follows, torch.where(precedes, both, out), into)
    edges = (same | follows | precedes) & first.unsqueeze(1)
    return masked_softmax(torch.where(same, oneself, linked), edges)


class NeighbourAttention(nn.Module):
    """The global level: attention over an item's neighbours in all sessions, given the current session.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.match = nn.Parameter(torch.empty(dim, dim))  # W_1 for s * h_j, (in, out)
        self.strength = nn.Parameter(torch.empty(dim))  # W_1 for w_ij
        self.attention = nn.Parameter(torch.empty(dim))  # q_1
        self.merge = nn.Linear(2 * dim, dim, bias=False)  # W_2

    def forward(self, own: Tensor, near: Tensor, strength: Tensor, known: Tensor, mean: Tensor) -> Tensor:
        """(B, T, D), neighbours (B, T, S, D), their weights (B, T, S), s (B, D) -> (B, T, D).

        `known`, bool (B, T, S), is false in places without a neighbour.
        """
        # (s * h_j) W_1 = h_j (diag(s) W_1): one matrix per session instead of a product per neighbour.
        match = near.flatten(1, 2) @ (mean.unsqueeze(2) * self.match)  # (B, T S, D)
        hidden = match.view(near.shape) + strength.unsqueeze(3) * self.strength
        logits = functional.leaky_relu(hidden, SLOPE) @ self.attention  # (B, T, S)
        weights = masked_softmax(logits, known) * known  # an item without neighbours gets zeros
        around = (weights.unsqueeze(2) @ near).squeeze(2)  # (B, T, D)
        return torch.relu(self.merge(torch.cat([own, around], 2)))
