"""KMVG: three views of a session, one of them of a graph of all items (Chen, Guo, Li & Li, SIGIR 2023).

Knowledge view. The paper's graph of items comes from an outside knowledge graph. Here its neighbours N(i) are
the items clicked near i in training sessions, and its only relation is that. Over L hops, with E^0 = E the
item embeddings:

    a_ij    = softmax_{j in N(i)}(tanh(W e^{l-1}_j) . W e^{l-1}_i)
    e^l_i   = dropout(sum_j a_ij e^{l-1}_j)              k_i = 1 / L sum_l e^l_i, l = 1 ... L

Session view. In the session's graph, with a vector a_r for each of the relations self, in, out, both:

    view(x)_i = sum_j softmax_j(a_r(i,j) . LeakyReLU(x_i * x_j)) x_j
    h_t       = view(e)_t + view(k)_t

Pairwise view. What the T clicks have in common, entry by entry:

    f = (sigmoid((sum_t e_t)^2) - sigmoid(sum_t e_t^2)) / (2 T)

    long = attention(h) + f,   score_j = long . e_j

with attention that of GCE-GNN, with positions from the end (`ReversedPositionAttention`).

Equations are those of the authors' released code (Monicachen233/KMVG). Unlike there, besides the graph:

- a_ij belongs to the vectors that it weighs, and gets gradients. Theirs is kept from one hop, and one step,
  to the next without them, so that W stays as it was initialised. With a single relation, the number that
  theirs adds for it is the same for all neighbours and vanishes in the softmax.
- An item without neighbours has itself for one. Attributes of items do not reach a backbone, so there is no
  relation of theirs.
- LeakyReLU comes before a_r, as there. It is a weighted sum of its argument and of the argument's absolute
  value, so that no tensor (B, T, T, D) is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, last_click
from llm4sbr.backbones.gce_gnn import SLOPE, relation_weights
from llm4sbr.backbones.global_graph import co_occurrence
from llm4sbr.backbones.readout import ReversedPositionAttention
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions

__all__ = ["KMVG", "KnowledgeView", "SessionView", "pairwise_view"]


class KMVG(nn.Module):
    """KMVG: three views of a session, with co-occurrence for knowledge (Chen et al., SIGIR 2023).

    Args:
        num_items: N.
        dim: D.
        hops: L.
        neighbours: S, neighbours of an item.
        window: clicks of a session at most this far apart are neighbours.
        dropout: dropout rate of every hop.
        positions: number of position embeddings, counted from the end of a session.

    Raises:
        ConfigError: an option is out of range.
    """

    plugin_api = 1
    plain_readout = "long"
    lacks = {"sampled": "every step takes the whole item table over the graph of items"}
    neighbours: Tensor
    folded: Tensor | None

    tunes = {"hops": [1, 2, 3], "neighbours": [6, 12, 24], "dropout": (0.0, 0.8)}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        hops: int = 2,
        neighbours: int = 12,
        window: int = 3,
        dropout: float = 0.7,
        positions: int = 200,
    ) -> None:
        super().__init__()
        if min(hops, neighbours, window, positions) < 1:
            raise ConfigError(
                f"kmvg: hops = {hops}, neighbours = {neighbours}, window = {window}, positions = "
                f"{positions}: expected at least 1 each"
            )
        self.window = window
        self.items = nn.Parameter(torch.empty(num_items, dim))
        self.knowledge = KnowledgeView(dim, hops=hops, dropout=dropout)
        self.session = SessionView(dim)
        self.readout = ReversedPositionAttention(dim, positions=positions)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)
        self.register_buffer("neighbours", torch.zeros(num_items, neighbours, dtype=torch.int32))
        self.register_buffer("folded", None, persistent=False)  # k of all items, in evaluation mode
        self.register_load_state_dict_post_hook(_fold_again)  # type: ignore[no-untyped-call]

    def fit(self, sessions: Sessions) -> None:
        """Find every item's neighbours in the training sessions."""
        count, size = self.neighbours.shape
        found = co_occurrence(sessions, num_items=count, window=self.window, size=size)
        self.neighbours.copy_(found.items)
        self.train(self.training)

    def train(self, mode: bool = True) -> KMVG:
        """Switch between training and evaluation mode; the latter computes the knowledge view once."""
        super().train(mode)
        with torch.no_grad():
            self.folded = None if mode else self.knowledge(self.items, self.neighbours)
        return self

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T)."""
        known = self.knowledge(self.items, self.neighbours) if self.folded is None else self.folded
        own = embed(items, self.items)  # (B, T, D)
        states = self.session(own, items, mask) + self.session(embed(items, known), items, mask)
        long = self.readout(states, mask) + pairwise_view(own, mask)
        return Encoded(long=long, short=last_click(states, mask), states=states)


def _fold_again(model: KMVG, _: object) -> None:
    model.train(model.training)


class KnowledgeView(nn.Module):
    """Attention over the graph of all items.

    Args:
        dim: D.
        hops: L.
        dropout: dropout rate of every hop.
    """

    def __init__(self, dim: int, *, hops: int, dropout: float) -> None:
        super().__init__()
        self.hops = hops
        self.match = nn.Linear(dim, dim, bias=False)  # W
        self.dropout = nn.Dropout(dropout)

    def forward(self, table: Tensor, neighbours: Tensor) -> Tensor:
        """Item embeddings (N, D), catalogue ids int32 (N, S) with 0 for none -> k, float (N, D)."""
        known = neighbours > 0
        alone = ~known.any(1, keepdim=True)
        oneself = torch.arange(len(table), device=table.device).unsqueeze(1)
        rows = torch.where(known, neighbours.long() - 1, oneself)  # (N, S)
        known = known | alone
        total, layer = torch.zeros_like(table), table
        for _ in range(self.hops):
            mapped = self.match(layer)
            near = functional.embedding(rows, torch.tanh(mapped))  # (N, S, D)
            logits = (near @ mapped.unsqueeze(2)).squeeze(2)
            weights = logits.masked_fill(~known, -torch.inf).softmax(1)
            layer = functional.embedding_bag(rows, layer, mode="sum", per_sample_weights=weights)
            layer = self.dropout(layer)
            total = total + layer
        return total / self.hops


class SessionView(nn.Module):
    """Attention along the edges of each session's graph.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.relations = nn.Parameter(torch.empty(4, dim))  # self, in, out, both

    def forward(self, states: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        # LeakyReLU(z) = (1 + SLOPE) / 2 z + (1 - SLOPE) / 2 |z|, and |x y| = |x| |y|
        plain, size = (1 + SLOPE) / 2 * states, (1 - SLOPE) / 2 * states.abs()
        left = torch.cat([plain, size], 2).unsqueeze(1) * self.relations.repeat(1, 2).unsqueeze(1)
        right = torch.cat([states, states.abs()], 2).unsqueeze(1)
        logits = left @ right.transpose(2, 3)  # (B, 4, T, T)
        return relation_weights(logits, items, mask) @ states


def pairwise_view(own: Tensor, mask: Tensor) -> Tensor:
    """What a session's clicks have in common: f, float (B, D), from their embeddings (B, T, D)."""
    kept = own * mask.unsqueeze(2)
    common = torch.sigmoid(kept.sum(1).square()) - torch.sigmoid(kept.square().sum(1))
    return common / (2 * mask.sum(1, keepdim=True).clamp(min=1))
