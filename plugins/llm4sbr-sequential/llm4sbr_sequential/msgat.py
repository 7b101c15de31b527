"""MSGAT: sparse attention in a session, and sessions like it (Qiao, Zhou, Wen, Zhang & Gao, CIKM 2023).

Attention is alpha-entmax (`entmax`): what does not matter has weight 0. How sparse it is, is learned; each
alpha below is 1 + sigmoid of a linear map of what is named.

Intra-session channel, with e_v item v's embedding, q_n a position counted from the end:

    x_v  = GNN(norm([e_v; q_{T-n+1}]))     n the last click on v; SR-GNN's gated graph network, 2 D wide
    X    = [x of every click; 0]           the last row is the target, about which nothing is known yet
    Y    = A X, A = entmax(relu(W_q X + b_q) X^T / sqrt(d))    by head; alpha from the target's query
    Z    = norm(Y + W_2 relu(W_1 Y + b_1) + b_2)               its last row is z, the target's representation
    a_t  = entmax_t(w . relu(V_1 Z_t + V_2 z + c))             alpha from z
    g    = sum_t a_t sigmoid(U_1 x_T + U_2 x_t)
    s    = unit(selu(W_f [g; z]))                              D entries

Inter-session channel. Other sessions r count by the Jaccard index J of their items, J = 1 for the session
itself; m_r is the sum of the embeddings of a session's items:

    relation = unit(selu(sum_r J_r m_r / sum_r J_r)),   v = s + relation

Collaboration by intent: of the session itself and the others, the `neighbours` with the highest cosine of v:

    long = s + dropout(sum_r softmax_r(cos(v, v_r)) v_r),   score_j = scale long . unit(e_j)

Equations are those of the authors' released code (QEpiphany/MSGAT). Unlike there:

- Others are the rest of the batch in training only. Otherwise a score would depend on who asks at the same
  time; and in the released evaluation the batch holds the session's own longer prefixes, in which its next
  click can be read. Outside training they are `memory` training sessions, evenly chosen, encoded once.
- The inter-session channel has no attention: theirs runs over copies of one vector, which it returns. That
  vector gets gradients, of which theirs is cut off by a detour through NumPy.
- The softmax over neighbours is of their cosines. Theirs is of a softmax over the batch, which makes all
  weights equal to within about 1 / B.
- Positions: theirs are those of a session's items in ascending order of ids. Padding has no influence.
- 4 heads and not 5, as they must divide 2 D. Embeddings are not clipped to length 1.5; norms start as 1
  and 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, last_click
from llm4sbr.backbones.graph import same_item, session_graph
from llm4sbr.backbones.s2_dhcn import jaccard
from llm4sbr.backbones.sr_gnn import GatedGraph
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions
from llm4sbr_sequential.entmax import entmax
from llm4sbr_sequential.sessions import by_length, first_clicks, traced

__all__ = ["MSGAT", "IntraSession", "SparseAttention"]

GROUPS = 4
"""Groups of similar length that a batch is divided into."""


class MSGAT(nn.Module):
    """MSGAT: sparse attention in a session, and sessions like it (Qiao et al., CIKM 2023).

    Args:
        num_items: N.
        dim: D.
        steps: rounds of message passing.
        heads: attention heads, a divisor of 2 D.
        neighbours: sessions that are joined, the session itself included.
        memory: training sessions that neighbours are chosen from, outside training.
        length: clicks that are kept of each of these, the last ones.
        scale: factor of the scores.
        dropout: dropout rate of the intra-session channel; that of the neighbours is twice it.
        positions: number of position embeddings, counted from the end of a session.

    Raises:
        ConfigError: an option is out of range.
    """

    plugin_api = 1
    plain_readout = "long"
    item_ids = ()
    memory: Tensor
    numbers: Tensor
    sums: Tensor | None
    others: Tensor | None

    tunes = {"steps": [1, 2, 3], "neighbours": (1, 8), "scale": (8.0, 32.0), "dropout": (0.0, 0.4)}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        steps: int = 1,
        heads: int = 4,
        neighbours: int = 3,
        memory: int = 100,
        length: int = 20,
        scale: float = 20.0,
        dropout: float = 0.2,
        positions: int = 300,
    ) -> None:
        super().__init__()
        if heads < 1 or 2 * dim % heads:
            raise ConfigError(f"msgat: heads = {heads}: expected a divisor of twice the dimension, {2 * dim}")
        if not 1 <= neighbours <= memory or length < 1 or positions < 1:
            raise ConfigError(
                f"msgat: neighbours = {neighbours}, memory = {memory}, length = {length}, positions = "
                f"{positions}: expected at least 1, at least as many as neighbours, 1 and 1"
            )
        if scale <= 0 or not 0 <= dropout <= 0.5:
            raise ConfigError(
                f"msgat: scale = {scale}, dropout = {dropout}: expected more than 0, and 0 to 0.5"
            )
        self.neighbours, self.scale = neighbours, scale
        self.items = nn.Parameter(torch.empty(num_items, dim))
        self.session = IntraSession(dim, steps=steps, heads=heads, dropout=dropout, positions=positions)
        self.dropout = nn.Dropout(2 * dropout)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)
        self.session.start_norms()
        self.register_buffer("memory", torch.zeros(memory, length, dtype=torch.int32))
        # Catalogue ids by row: on a part of the catalogue, rows have other numbers than the memory.
        self.register_buffer(
            "numbers", torch.arange(1, num_items + 1, dtype=torch.int32).view(-1, 1), persistent=False
        )
        for name in ("sums", "others"):  # m_r and v_r of the memory, outside training
            self.register_buffer(name, None, persistent=False)
        self.register_load_state_dict_post_hook(_encode_again)  # type: ignore[no-untyped-call]

    def fit(self, sessions: Sessions) -> None:
        """Choose the training sessions that are remembered."""
        rows, length = self.memory.shape
        count = len(sessions.offsets) - 1
        chosen = torch.arange(min(rows, count)) * count // max(1, min(rows, count))
        end = sessions.offsets[chosen + 1]
        start = torch.maximum(sessions.offsets[chosen], end - length)
        steps = torch.arange(length)
        place = (start.unsqueeze(1) + steps).clamp(max=max(0, len(sessions.items) - 1))
        kept = sessions.items[place] * (steps < (end - start).unsqueeze(1))
        self.memory.zero_()
        self.memory[: len(chosen)] = kept.int().to(self.memory.device)
        self.train(self.training)

    def train(self, mode: bool = True) -> MSGAT:
        """Switch between training and evaluation mode; the latter encodes the memory once."""
        super().train(mode)
        self.sums = self.others = None
        if not mode:
            with torch.no_grad():
                items = self.memory.long()
                self.sums, self.others = self._sums(items, items > 0), self._among(items, items > 0)[1]
        return self

    def item_embeddings(self) -> Tensor:
        """Directions of the items times `scale`, float (N, D)."""
        return self.scale * functional.normalize(self.items, dim=1)

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T); short is the direction of the last item."""
        if self.others is None or self.sums is None:
            own, found = self._among(items, mask)
            others, known = found, ~torch.eye(len(items), dtype=torch.bool, device=items.device)
        else:
            own = self._sessions(items, mask)
            found = own + _relation(self._sums(items, mask), self.sums, self._likeness(items, mask))
            others, known = self.others, (self.memory[:, 0] > 0).unsqueeze(0)
        long = own + self.dropout(self._joined(found, others, known))
        last = last_click(embed(items, self.items), mask)
        return Encoded(long=long, short=functional.normalize(last, dim=1))

    def _sessions(self, items: Tensor, mask: Tensor) -> Tensor:
        """The intra-session channel, s, float (B, D)."""

        def encode(items: Tensor, mask: Tensor) -> Tensor:
            found: Tensor = self.session(embed(items, self.items), items, mask)
            return found

        if traced():
            return encode(items, mask)
        return by_length(encode, items, mask, -(-len(items) // GROUPS))

    def _among(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Both s and v, float (B, D), of sessions that are each other's others."""
        own, sums = self._sessions(items, mask), self._sums(items, mask)
        _, place = torch.unique(items, return_inverse=True)
        join = jaccard(place + 1, mask, num_items=int(place.max()) + 1)
        join = join.fill_diagonal_(0)
        return own, own + _relation(sums, sums, join)

    def _sums(self, items: Tensor, mask: Tensor) -> Tensor:
        """The sums m of the embeddings of sessions' items, float (B, D)."""
        first = first_clicks(same_item(items, mask))
        return (embed(items, self.items) * first.unsqueeze(2)).sum(1)

    def _likeness(self, items: Tensor, mask: Tensor) -> Tensor:
        """Jaccard index with every session of the memory, float (B, memory)."""
        first = first_clicks(same_item(items, mask))
        ids = embed(items, self.numbers).unsqueeze(3)  # (B, T, 1, 1)
        held = (ids == self.memory).any(3) & first.unsqueeze(2)  # (B, T, memory)
        shared = held.sum(1)
        kept = self.memory > 0
        size = first_clicks(same_item(self.memory, kept)).sum(1)
        return shared / (first.sum(1, keepdim=True) + size - shared).clamp(min=1)

    def _joined(self, found: Tensor, others: Tensor, known: Tensor) -> Tensor:
        """The weighted mean of v (B, D) and its nearest among (R, D), where bool (B or 1, R) is true."""
        if self.neighbours == 1 or len(others) < 2:
            return found
        near = functional.normalize(found, dim=1) @ functional.normalize(others, dim=1).T
        near = near.masked_fill(~known, -math.inf)
        best, which = near.topk(min(self.neighbours, len(others)) - 1, 1)
        weights = functional.pad(best, (1, 0), value=1.0).softmax(1)  # cos(v, v) = 1
        around = (weights[:, 1:].unsqueeze(2) * functional.embedding(which, others)).sum(1)
        return weights[:, :1] * found + around


def _encode_again(model: MSGAT, _: object) -> None:
    model.train(model.training)


def _relation(own: Tensor, others: Tensor, join: Tensor) -> Tensor:
    """The inter-session channel for m (B, D), m_r (R, D) and J (B, R); the session itself is added."""
    mean = (own + join @ others) / (1 + join.sum(1, keepdim=True))
    return functional.normalize(torch.selu(mean), dim=1)


class IntraSession(nn.Module):
    """The intra-session channel.

    Args:
        dim: D.
        steps: rounds of message passing.
        heads: attention heads.
        dropout: dropout rate.
        positions: number of position embeddings.
    """

    def __init__(self, dim: int, *, steps: int, heads: int, dropout: float, positions: int) -> None:
        super().__init__()
        wide = 2 * dim
        self.positions = nn.Parameter(torch.empty(positions, dim))
        self.norm = nn.LayerNorm(wide)
        self.gnn = GatedGraph(wide, steps=steps)
        self.attention = SparseAttention(wide, heads=heads, dropout=dropout)
        self.sparsity = nn.Linear(wide, 1)
        self.from_state = nn.Linear(wide, wide, bias=False)  # V_1
        self.from_target = nn.Linear(wide, wide)  # V_2, c
        self.weight = nn.Linear(wide, 1, bias=False)  # w
        self.gate_last = nn.Linear(wide, wide)  # U_1
        self.gate_all = nn.Linear(wide, wide)  # U_2
        self.join = nn.Linear(2 * wide, dim)  # W_f
        self.dropout = nn.Dropout(dropout)

    def start_norms(self) -> None:
        """Start both norms as 1 and 0."""
        self.norm.reset_parameters()
        self.attention.norm.reset_parameters()

    def forward(self, own: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        """Embeddings of the clicks (B, T, D), int64 (B, T), bool (B, T) -> (B, D)."""
        states = self._graph(own, items, mask)  # (B, T, 2 D)
        others, target = self.attention(states, mask)
        alpha = 1 + torch.sigmoid(self.sparsity(target))  # (B, 1)
        hidden = torch.relu(self.from_state(others) + self.from_target(target).unsqueeze(1))
        weights = entmax(self.weight(hidden).squeeze(2), mask, alpha)  # (B, T)
        gates = torch.sigmoid(self.gate_last(last_click(states, mask)).unsqueeze(1) + self.gate_all(states))
        overall = (weights.unsqueeze(1) @ gates).squeeze(1)
        joined = self.dropout(torch.selu(self.join(torch.cat([overall, target], 1))))
        return functional.normalize(joined, dim=1)

    def _graph(self, own: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        steps = torch.arange(items.shape[1], device=items.device)
        last = torch.where(same_item(items, mask), steps, 0).amax(2)  # (B, T)
        back = (mask.sum(1, keepdim=True) - 1 - last).clamp(min=0, max=len(self.positions) - 1)
        states: Tensor = self.norm(torch.cat([own, functional.embedding(back, self.positions)], 2))
        graph = session_graph(items, mask)
        for _ in range(self.gnn.steps):
            states = self.gnn.step(states, graph)
        return states


class SparseAttention(nn.Module):
    """Self-attention over the clicks and the target, with a learned alpha for every head.

    Args:
        size: entries of a state.
        heads: number of heads.
        dropout: dropout rate of the queries and of what is added.
    """

    def __init__(self, size: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.sparsity = nn.Linear(size // heads, 1)
        self.inner = nn.Linear(size, size)
        self.outer = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T, C), bool (B, T) -> those of the clicks (B, T, C), that of the target (B, C)."""
        states = functional.pad(states, (0, 0, 0, 1))  # the target
        mask = functional.pad(mask, (0, 1), value=True)
        queries = self._heads(self.dropout(torch.relu(self.query(states))))  # (B, H, T + 1, C / H)
        keys = self._heads(states)
        alpha = 1 + torch.sigmoid(self.sparsity(queries[:, :, -1:]))  # (B, H, 1, 1)
        logits = queries @ keys.transpose(2, 3) / math.sqrt(keys.shape[3])
        found = (entmax(logits, mask[:, None, None], alpha) @ keys).transpose(1, 2).flatten(2)
        found = self.norm(found + self.dropout(self.outer(torch.relu(self.inner(found)))))
        return found[:, :-1], found[:, -1]

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)
