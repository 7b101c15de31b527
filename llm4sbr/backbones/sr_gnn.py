"""SR-GNN: session graphs through a gated graph network (Wu et al., AAAI 2019).

Equation numbers are the paper's. As in the authors' released code, the edge maps and the attention have
biases, a distinct edge counts once, and the attention of Eq. 6 runs over clicks, so an item clicked twice
counts twice; its weights are not normalised. Unlike there, padding has no influence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, last_click
from llm4sbr.backbones.graph import SessionGraph, session_graph
from llm4sbr.backbones.readout import soft_attention
from llm4sbr.errors import ConfigError
from llm4sbr.fast import backbones
from llm4sbr.fast.nodes import Nodes, session_nodes
from llm4sbr.protocols import Encoded, Sessions


class SRGNN(nn.Module):
    """Session encoder over item ids.

    Args:
        num_items: N.
        dim: D.
        steps: rounds of message passing.
    """

    tunes = {"steps": [1, 2, 3]}

    def __init__(self, num_items: int, dim: int, *, steps: int = 1) -> None:
        super().__init__()
        self.items = nn.Parameter(torch.empty(num_items, dim))
        self.gnn = GatedGraph(dim, steps=steps)
        self.attend_last = nn.Linear(dim, dim)
        self.attend_all = nn.Linear(dim, dim)
        self.attention = nn.Linear(dim, 1, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare: each session has its own graph."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): last item's state and attention over all clicks (Eq. 6)."""
        if backbones.applies(self, self.items):
            return self._by_hand(session_nodes(items, mask))
        states = self.gnn(items, mask, self.items)  # (B, T, D)
        short = last_click(states, mask)
        query = self.attend_last(short)
        long = soft_attention(states, states, query, mask, self.attend_all, self.attention)
        return Encoded(long=long, short=short, states=states)

    def _by_hand(self, nodes: Nodes) -> Encoded:
        states = self.gnn.nodes(nodes, self.items)  # (V, D)
        short = functional.embedding(nodes.last, states)
        long = backbones.node_attention(
            states, self.attend_last(short), nodes, self.attend_all, self.attention
        )
        return Encoded(long=long, short=short, states=functional.embedding(nodes.clicks, states))


class GatedGraph(nn.Module):
    """Gated graph network, Eqs. 1-5 (Li et al. 2016 over incoming and outgoing edges).

    Args:
        dim: D.
        steps: rounds of message passing.

    Raises:
        ConfigError: `steps` is below 1.
    """

    def __init__(self, dim: int, *, steps: int = 1) -> None:
        super().__init__()
        if steps < 1:
            raise ConfigError(f"train.options.steps = {steps}: at least one round of messages is needed")
        self.steps = steps
        self.edge_in = nn.Linear(dim, dim)
        self.edge_out = nn.Linear(dim, dim)
        self.bias_in = nn.Parameter(torch.zeros(dim))
        self.bias_out = nn.Parameter(torch.zeros(dim))
        self.from_message = nn.Linear(2 * dim, 3 * dim)
        self.from_state = nn.Linear(dim, 3 * dim)

    def forward(self, items: Tensor, mask: Tensor, table: Tensor) -> Tensor:
        """States float (B, T, D) of clicks int64 (B, T) under bool (B, T); equal for clicks on the same item.

        Args:
            items: right-padded; the states at padding are meaningless.
            mask: true at clicks.
            table: float (N, D), row i for item i + 1.
        """
        if backbones.applies(self, table):
            nodes = session_nodes(items, mask)
            return functional.embedding(nodes.clicks, self.nodes(nodes, table))
        states, graph = embed(items, table), session_graph(items, mask)
        for _ in range(self.steps):
            states = self.step(states, graph)
        return states

    def nodes(self, nodes: Nodes, table: Tensor) -> Tensor:
        """States float (V, D) of the nodes of a batch, with a hand-written backward pass."""
        states = functional.embedding(nodes.distinct - 1, table)
        gates = backbones.Gates(
            self.edge_in.weight,
            self.edge_in.bias,
            self.edge_out.weight,
            self.edge_out.bias,
            shift=torch.cat([self.bias_in, self.bias_out]),
            message=self.from_message.weight,
            message_bias=self.from_message.bias,
            state=self.from_state.weight,
            state_bias=self.from_state.bias,
        )
        own = nodes.item
        for _ in range(self.steps):
            states = backbones.gated_nodes(states, nodes.links(own, len(states)), gates)
            own = torch.arange(len(own))  # from the second round on, each node has its own state
        return states

    def step(self, states: Tensor, graph: SessionGraph) -> Tensor:
        """One round in plain PyTorch, (B, T, D) -> (B, T, D)."""
        incoming = graph.incoming @ self.edge_in(states) + self.bias_in
        outgoing = graph.outgoing @ self.edge_out(states) + self.bias_out
        message = torch.cat([incoming, outgoing], 2)  # (B, T, 2D), Eq. 1
        reset_m, update_m, new_m = self.from_message(message).chunk(3, 2)
        reset_s, update_s, new_s = self.from_state(states).chunk(3, 2)
        reset = torch.sigmoid(reset_m + reset_s)  # Eq. 3
        keep = torch.sigmoid(update_m + update_s)  # Eq. 2: one minus the paper's z, as in the released code
        new = torch.tanh(new_m + reset * new_s)  # Eq. 4
        return new + keep * (states - new)  # Eq. 5
