"""LESSR: session graphs that keep the order of edges and reach distant clicks (Chen & Wong, KDD 2020).

Two kinds of layers alternate; each appends D entries to an item's state, x <- [layer(x); x]. With x_i item
i's:

    EOPA: every transition is an edge, u_1 ... u_n those that arrive at i in order of time, section 4.2:
        h_k = GRU(x_{u_k}, h_{k-1}),  h_0 = 0                 layer(x)_i = f(W_self x_i + W_neigh h_n)
    SGAT: an edge from every item to itself and to all that are clicked after it, section 4.3:
        a_ji = softmax_j(p . sigmoid(W_q x_j + b + W_k x_i))  layer(x)_i = f(sum_j a_ji W_v x_j)

and with z the last item, section 4.4:

    b_i = softmax_i(q . sigmoid(W_1 x_i + W_2 x_z + r)),  g = f(W_out sum_i b_i x_i)
    s   = W_h [x_z; g],  score_j = s . e_j                    f: PReLU, a slope per entry

Nodes are not renumbered: every click carries its item's state (see `llm4sbr.backbones.graph`). The GRU
processes all items in parallel, one round per incoming edge of the item with most of them. `arrivals` bounds
the number of rounds, which must be fixed in an exported graph: of each item the last `arrivals` edges are
used.

Deviations from the authors' released code (twchen/lessr):

- LayerNorm in place of batch normalisation, so that a session does not depend on the rest of its batch, and a
  batch can be divided among processes.
- Messages are not mapped before the GRU (nor are they in the code): the GRU has its own map.
- Embeddings are not clipped to length 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.backbones.graph import same_item
from llm4sbr.backbones.readout import masked_softmax
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions
from llm4sbr_sequential.sessions import traced

__all__ = ["EOPA", "LESSR", "SGAT", "ClickGraphs", "Readout", "graph"]

PAIRS = 2**25
"""Maximum number of elements of SGAT's largest tensor (B, T, T, D) in evaluation, 128 MB in float32."""


class LESSR(nn.Module):
    """LESSR: session graphs that keep the order of edges and reach far (Chen & Wong, KDD 2020).

    Args:
        num_items: N.
        dim: D.
        layers: number of layers; EOPA and SGAT alternate, EOPA first.
        arrivals: maximum number of edges per item that EOPA reads, the last ones.
        dropout: dropout rate of a layer's input.

    Raises:
        ConfigError: an option is out of range.
    """

    plugin_api = 1
    plain_readout = "long"

    tunes = {"layers": [1, 2, 3, 4], "dropout": (0.0, 0.5)}

    def __init__(
        self, num_items: int, dim: int, *, layers: int = 3, arrivals: int = 8, dropout: float = 0.2
    ) -> None:
        super().__init__()
        if layers < 1 or arrivals < 1:
            raise ConfigError(f"lessr: layers = {layers}, arrivals = {arrivals}: both must be 1 or more")
        self.items = item_table(num_items, dim)
        self.layers = nn.ModuleList()
        for number in range(layers):
            width = (number + 1) * dim
            self.layers.append(
                SGAT(width, dim, dropout=dropout)
                if number % 2
                else EOPA(width, dim, arrivals=arrivals, dropout=dropout)
            )
        width = (layers + 1) * dim
        self.readout = Readout(width, dim, dropout=dropout)
        self.norm_last, self.norm_all = nn.LayerNorm(width), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.from_last = nn.Linear(width, dim, bias=False)  # W_h, left part
        self.from_all = nn.Linear(dim, dim, bias=False)  # W_h, right part

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare: each session has its own graphs."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): long is s, short the last item's part of it."""
        edges = graph(items, mask)
        states = embed(items, self.items)  # (B, T, D)
        for layer in self.layers:
            states = torch.cat([layer(states, edges), states], 2)
        last = last_click(states, mask)
        overall = self.readout(states, last, edges.first)
        short = self.from_last(self.dropout(self.norm_last(last)))
        return Encoded(long=short + self.from_all(self.dropout(self.norm_all(overall))), short=short)


class ClickGraphs(NamedTuple):
    """Both graphs of each session, by click. An item "arrives" where it is clicked after another item."""

    before: Tensor
    """int64 (B, T): position of the last arrival of t's item before t; 0 for none."""
    latest: Tensor
    """int64 (B, T): position of its last arrival in the whole session; 0 for none."""
    depth: Tensor
    """int64 (B, T): number of its arrivals up to and including t, 0 at a session's first click."""
    first: Tensor
    """bool (B, T): t is the first click on its item; one click per node."""
    shortcuts: Tensor
    """bool (B, T, T): s is the first click on its item, and the item of t was clicked there or later."""


def graph(items: Tensor, mask: Tensor) -> ClickGraphs:
    """The graphs of sessions int64 (B, T) under bool (B, T)."""
    steps = torch.arange(items.shape[1], device=items.device)
    same = same_item(items, mask)  # (B, T, T)
    arrived = same & (steps > 0)  # the first click has no predecessor
    first = mask & ((same & (steps < steps.unsqueeze(1))).sum(2) == 0)
    last = torch.where(same, steps, 0).amax(2, keepdim=True)  # (B, T, 1)
    return ClickGraphs(
        before=torch.where(arrived & (steps < steps.unsqueeze(1)), steps, 0).amax(2),
        latest=torch.where(arrived, steps, 0).amax(2),
        depth=(arrived & (steps <= steps.unsqueeze(1))).sum(2),
        first=first,
        shortcuts=first.unsqueeze(1) & (steps <= last),
    )


class EOPA(nn.Module):
    """Edge-order preserving aggregation: an item's state from its predecessors, in order.

    Args:
        width: size of an item's input state.
        dim: D.
        arrivals: maximum number of edges per item, the last ones.
        dropout: dropout rate of the messages.
    """

    def __init__(self, width: int, dim: int, *, arrivals: int, dropout: float) -> None:
        super().__init__()
        self.arrivals = arrivals
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.from_message = nn.Linear(width, 3 * width)  # of the GRU: reset, update, candidate
        self.from_state = nn.Linear(width, 3 * width)
        self.itself = nn.Linear(width, dim, bias=False)
        self.neighbours = nn.Linear(width, dim, bias=False)
        self.active = Activation(dim)

    def forward(self, states: Tensor, edges: ClickGraphs) -> Tensor:
        """(B, T, width) -> (B, T, D)."""
        states = self.norm(states)
        read = self._read_all if traced() else self._read  # a graph must work for all sessions
        told = read(self.dropout(states), edges)
        active: Tensor = self.active(self.itself(states) + told)
        return active

    def _read_all(self, messages: Tensor, edges: ClickGraphs) -> Tensor:
        """What arrives at the clicks' items, (B, T, width) -> (B, T, D), computed at every click."""
        gates = self.from_message(messages)
        gates = torch.cat([gates[:, :1], gates[:, :-1]], 1)  # of the previous click; the first has none
        read = torch.zeros_like(messages)
        for _ in range(self.arrivals):
            read = self._cell(gates, _at(read, edges.before))
        told: Tensor = self.neighbours(_at(read, edges.latest))
        return told

    def _read(self, messages: Tensor, edges: ClickGraphs) -> Tensor:
        """The same, computed at the A arrivals only, and from the second round on at those that change."""
        where = edges.depth.flatten().nonzero().squeeze(1)  # (A,)
        depth = edges.depth.flatten()[where]
        number = torch.zeros_like(edges.depth).flatten()  # 1..A at arrivals, 0 for none
        number[where] = torch.arange(1, len(where) + 1, device=where.device)
        number = number.view_as(edges.depth)
        before = number.gather(1, edges.before).flatten()[where]
        gates = self.from_message(messages.flatten(0, 1)[where - 1])
        read = self._cell(gates, gates.new_zeros(1, messages.shape[2]))
        for past in range(1, min(self.arrivals, int(edges.depth.max()))):
            later = (depth > past).nonzero().squeeze(1)
            read = read.index_copy(0, later, self._cell(gates[later], read[before[later] - 1]))
        told = self.neighbours(read)
        told = torch.cat([told.new_zeros(1, told.shape[1]), told])
        return told[number.gather(1, edges.latest)]

    def _cell(self, gates: Tensor, state: Tensor) -> Tensor:
        reset_m, update_m, new_m = gates.chunk(3, -1)
        reset_s, update_s, new_s = self.from_state(state).chunk(3, -1)
        update = torch.sigmoid(update_m + update_s)
        new = torch.tanh(new_m + torch.sigmoid(reset_m + reset_s) * new_s)
        return new + update * (state - new)


class SGAT(nn.Module):
    """Shortcut graph attention: every item attends to itself and to all earlier items.

    Args:
        width: size of an item's input state.
        dim: D.
        dropout: dropout rate of the input.
    """

    def __init__(self, width: int, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.source = nn.Linear(width, dim)  # W_q, b
        self.target = nn.Linear(width, dim, bias=False)  # W_k
        self.value = nn.Linear(width, dim, bias=False)  # W_v
        self.attention = nn.Linear(dim, 1, bias=False)  # p
        self.active = Activation(dim)

    def forward(self, states: Tensor, edges: ClickGraphs) -> Tensor:
        """(B, T, width) -> (B, T, D)."""
        states = self.dropout(self.norm(states))
        weights = masked_softmax(self._logits(self.source(states), self.target(states)), edges.shortcuts)
        active: Tensor = self.active(weights @ self.value(states))
        return active

    def _logits(self, source: Tensor, target: Tensor) -> Tensor:
        """Attention logits of clicks t over clicks s, (B, T, T), a few sessions at a time."""
        if self.training or traced():
            return self._at_once(source, target)
        rows = max(1, PAIRS // (source[0].numel() * source.shape[1]))
        parts = zip(torch.split(source, rows), torch.split(target, rows), strict=True)
        return torch.cat([self._at_once(*part) for part in parts])

    def _at_once(self, source: Tensor, target: Tensor) -> Tensor:
        logits: Tensor = self.attention(torch.sigmoid(source.unsqueeze(1) + target.unsqueeze(2)))
        return logits.squeeze(3)


class Readout(nn.Module):
    """Attention over the items of a session, driven by the last one.

    Args:
        width: size of an item's input state.
        dim: D.
        dropout: dropout rate of the input.
    """

    def __init__(self, width: int, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.attend_all = nn.Linear(width, dim, bias=False)  # W_1
        self.attend_last = nn.Linear(width, dim)  # W_2, r
        self.attention = nn.Linear(dim, 1, bias=False)  # q
        self.out = nn.Linear(width, dim, bias=False)
        self.active = Activation(dim)

    def forward(self, states: Tensor, last: Tensor, first: Tensor) -> Tensor:
        """States (B, T, width), used where bool (B, T) is true, and last states (B, width) -> (B, D)."""
        states = self.dropout(self.norm(states))
        drive = self.attend_last(self.dropout(self.norm(last))).unsqueeze(1)
        logits = self.attention(torch.sigmoid(self.attend_all(states) + drive)).squeeze(2)
        mean = (masked_softmax(logits, first).unsqueeze(2) * states).sum(1)
        active: Tensor = self.active(self.out(mean))
        return active


class Activation(nn.Module):
    """PReLU with a slope per entry of the last dimension.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((dim,), 0.25))

    def forward(self, given: Tensor) -> Tensor:
        """Float (..., D) -> (..., D)."""
        return given.clamp(min=0) + self.slope * given.clamp(max=0)


def _at(states: Tensor, places: Tensor) -> Tensor:
    """States (B, T, C) at positions int64 (B, T); zeros for position 0, which means none."""
    found = states.gather(1, places.unsqueeze(2).expand(-1, -1, states.shape[2]))
    return found * (places > 0).unsqueeze(2)
