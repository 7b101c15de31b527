"""S2-DHCN: items convolved over a hypergraph of all sessions (Xia et al., AAAI 2021).

Hypergraph channel. Each training session is an edge that joins its items: H is (items, sessions), D the
number of sessions per item, B the number of items per session. L layers without weights are averaged:

    X_{l+1} = D^-1 H B^-1 H^T X_l        X = 1 / (L + 1) sum_l X_l

An item's row becomes the mean, over its sessions, of the mean of their items. A session's vector is soft
attention with reversed positions over its items' rows of X (`ReversedPositionAttention`), and scores are its
products with X.

Line graph channel, in training only. The sessions of the batch are joined by the Jaccard index of their item
sets; with A that matrix and D_A its row sums, starting from the mean of each session's rows of X_0:

    Y_{l+1} = D_A^-1 (A + I) Y_l         Y = 1 / (L + 1) sum_l Y_l

The two views of a session are trained to agree, and to disagree with a corrupted view (rows and columns
shuffled):

    L_s = -log sigmoid(X_s . Y_s) - log(1 - sigmoid(X~_s . Y_s))

beta L_s is the auxiliary loss. The line graph depends on the other sessions of the batch, so it is not used
for scoring.

In evaluation mode X is constant; `eval()` computes it once, and scoring uses it like any embedding table.
(After changing weights in evaluation mode, call `eval()` again; loading a state does so itself.) A training
step convolves all N items once: two means over lists of rows per layer, and the same again for the gradient.
For a small catalogue with many clicks, the L layers are first combined into one (N, N) matrix, and a step is
one product with it (`DENSE`).

Unlike the authors' released code: layers are averaged as in the paper, not summed; L_s is the mean over the
batch, not the sum, and has a tenth of their weight (0.01 times a sum over 100 sessions would be beta = 1); a
session is one edge, while theirs has an edge per training prefix, without its target; gradients flow into the
line graph channel too (theirs are cut off by a detour through NumPy); scoring skips the line graph.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.backbones.global_graph import hypergraph
from llm4sbr.backbones.readout import ReversedPositionAttention, mean_click
from llm4sbr.protocols import Encoded, Sessions

DENSE = 16
"""The (N, N) matrix is used if it has at most this many entries per click and layer: per entry, a matrix
product is about that much faster than means over rows."""
LARGEST = 8192
"""Largest catalogue for which the matrix is built; it takes 256 MB then."""


class S2DHCN(nn.Module):
    """Session encoder over item ids; `long` is its session vector, `short` the last item's row of X.

    Args:
        num_items: N.
        dim: D.
        layers: L, of both channels.
        beta: weight of the self-supervised loss.
        positions: number of position embeddings, counted from the end of a session.
    """

    plain_readout = "long"
    lacks = {"sampled": "every step convolves the whole item table over all sessions"}
    edges: Tensor
    sizes: Tensor
    offsets: Tensor
    sessions: Tensor
    starts: Tensor
    folded: Tensor | None
    whole: Tensor | None

    tunes = {"layers": [1, 2, 3], "beta": (1e-3, 1.0, "log")}

    def __init__(
        self, num_items: int, dim: int, *, layers: int = 3, beta: float = 0.1, positions: int = 200
    ) -> None:
        super().__init__()
        self.layers = layers
        self.beta = beta
        self.items = item_table(num_items, dim)
        self.readout = ReversedPositionAttention(dim, positions=positions)
        for parameter in self.readout.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))
        # The training sessions' items, flat, and how many each has: empty until `fit`, saved with the model.
        self.register_buffer("edges", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("sizes", torch.zeros(0, dtype=torch.int32))
        # Derived from them; and X in evaluation mode.
        for name in ("offsets", "sessions", "starts", "folded", "whole"):
            self.register_buffer(name, None, persistent=False)
        self._index()
        self.register_load_state_dict_post_hook(_index_again)  # type: ignore[no-untyped-call]

    def fit(self, sessions: Sessions) -> None:
        """Make each training session an edge of the hypergraph."""
        device = self.edges.device
        edges, offsets = hypergraph(sessions, num_items=len(self.items))
        self.edges, self.sizes = edges.to(device), offsets.diff().to(device)
        self._index()

    def train(self, mode: bool = True) -> S2DHCN:
        """Switch between training and evaluation mode; the latter computes X once."""
        super().train(mode)
        with torch.no_grad():
            self.folded = None if mode else self._convolved()
            if mode and self.whole is None and self._dense():
                one = torch.eye(len(self.items)).to(self.items)
                self.whole = _mean_of_layers(one, self._graph(), self.layers)
        return self

    def item_embeddings(self) -> Tensor:
        """X, what scores are computed with, float (N, D)."""
        return self._convolved() if self.folded is None else self.folded

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T)."""
        table = self.item_embeddings()
        states = embed(items, table)  # (B, T, D)
        long = self.readout(states, mask)
        loss = self._agreement(items, mask, long) if self.training else None
        return Encoded(long=long, short=last_click(states, mask), auxiliary=loss, items=table)

    def _convolved(self) -> Tensor:
        if self.training and self.whole is not None:
            return self.whole @ self.items
        found = Convolution.apply(self.items, self._graph(), self.layers)  # type: ignore[no-untyped-call]
        return cast(Tensor, found)

    def _graph(self) -> HypergraphIndex:
        return HypergraphIndex(self.edges, self.offsets, self.sessions, self.starts)

    def _dense(self) -> bool:
        entries = len(self.items) ** 2
        return len(self.items) <= LARGEST and entries <= DENSE * self.layers * len(self.edges)

    def _index(self) -> None:
        """Derive where each session begins, and which sessions each item has."""
        rows, order = self.edges.sort(stable=True)
        owner = torch.arange(len(self.sizes), device=rows.device).repeat_interleave(self.sizes.long())
        every = torch.arange(len(self.items) + 1, device=rows.device)
        zero = self.sizes.new_zeros(1)
        self.offsets = torch.cat([zero, self.sizes.cumsum(0, dtype=torch.int32)])
        self.sessions = owner[order].int()
        self.starts = torch.searchsorted(rows, every.int(), out_int32=True)
        self.whole = None
        self.train(self.training)  # recompute what was derived from the old index

    def _agreement(self, items: Tensor, mask: Tensor, long: Tensor) -> Tensor:
        """The auxiliary loss beta L_s, a scalar."""
        line = self._line_channel(items, mask)  # (B, D)
        rows, columns = (torch.randperm(size, device=long.device) for size in long.shape)
        true, false = (long * line).sum(1), (long[rows][:, columns] * line).sum(1)
        # -log sigmoid(x) = softplus(-x), and -log(1 - sigmoid(x)) = softplus(x)
        return self.beta * (functional.softplus(-true) + functional.softplus(false)).mean()

    def _line_channel(self, items: Tensor, mask: Tensor) -> Tensor:
        """Y, float (B, D)."""
        join = jaccard(items, mask, num_items=len(self.items))  # with ones in the diagonal: A + I
        join = join / join.sum(1, keepdim=True)
        layer = total = mean_click(embed(items, self.items), mask)
        for _ in range(self.layers):
            layer = join @ layer
            total = total + layer
        return total / (self.layers + 1)


def _index_again(model: S2DHCN, _: object) -> None:
    model._index()


class HypergraphIndex(NamedTuple):
    """The hypergraph in both directions: items by session, sessions by item; all int32."""

    items: Tensor
    """(C,): item rows, session by session."""
    offsets: Tensor
    """(sessions + 1,)."""
    sessions: Tensor
    """(C,): session numbers, item by item."""
    starts: Tensor
    """(N + 1,)."""

    def mean(self, table: Tensor) -> Tensor:
        """D^-1 H B^-1 H^T x, float (N, D): over an item's sessions, the mean of the session's items."""
        session = _means(table, self.items, self.offsets)
        return _means(session, self.sessions, self.starts)


class Convolution(torch.autograd.Function):
    """X from X_0: the mean of layers 0..L. It is linear, so the backward pass needs no saved activations.

    With P = 1 / (L + 1) sum_l (D^-1 S)^l and S = H B^-1 H^T symmetric, P^T = D P D^-1: the gradient is the
    same convolution, after a division by the items' degrees and before a product with them.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, graph: HypergraphIndex, layers: int) -> Tensor:
        """Float (N, D) -> float (N, D)."""
        ctx.graph, ctx.layers = graph, layers
        return _mean_of_layers(table, graph, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Gradient with respect to the table."""
        degree = ctx.graph.starts.diff().clamp(min=1).unsqueeze(1)
        return degree * _mean_of_layers(gradients[0] / degree, ctx.graph, ctx.layers), None, None


def jaccard(items: Tensor, mask: Tensor, *, num_items: int) -> Tensor:
    """Jaccard index of any two sessions' item sets in the batch, float (B, B); 1 on the diagonal."""
    present = torch.zeros(len(items), num_items + 1, device=items.device)
    present = present.scatter(1, items * mask, 1.0)[:, 1:]  # (B, N); padding went to column 0
    shared = present @ present.T
    size = shared.diagonal()
    return shared / (size.unsqueeze(1) + size - shared).clamp(min=1)


def _mean_of_layers(table: Tensor, graph: HypergraphIndex, layers: int) -> Tensor:
    layer = total = table
    for _ in range(layers):
        layer = graph.mean(layer)
        total = total + layer
    return total / (layers + 1)


def _means(table: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """Mean of the rows in each list; zeros for an empty list."""
    return functional.embedding_bag(rows, table, offsets, mode="mean", include_last_offset=True)
