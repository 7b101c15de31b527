"""A common implementation of SR-GNN with intents, for comparison; same weights, equations and results.

Sessions are padded to the longest of the data set, and batches are in random order. Each batch builds its
sessions' graphs with NumPy: nodes by `unique` (padding is one of them), edges click by click, and the node of
every position by a search. After message passing, states are put back into the order of clicks session by
session. Text embeddings are strings; each is parsed with `ast.literal_eval` when a batch needs it.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llm4sbr.backbones.graph import SessionGraph
from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.fusion.losses import joint_loss
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.protocols import Encoded, Samples, Sessions


class CommonSRGNN(SRGNN):
    """SR-GNN on the nodes of each session's graph; its parameters are those of `SRGNN`."""

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """As in `SRGNN`: int64 (B, T) under bool (B, T)."""
        nodes, graph, places = session_graphs(items.numpy())
        states = functional.embedding((nodes - 1).clamp(min=0), self.items)  # per node
        for _ in range(self.gnn.steps):
            states = self.gnn.step(states, graph)
        clicks = torch.stack([states[i][places[i]] for i in range(len(places))])  # (B, T, D)
        short = clicks[torch.arange(len(clicks)), mask.sum(1) - 1]  # (B, D)
        hidden = torch.sigmoid(self.attend_last(short).unsqueeze(1) + self.attend_all(clicks))
        long = (self.attention(hidden) * clicks * mask.unsqueeze(2)).sum(1)
        return Encoded(long=long, short=short)


def session_graphs(items: np.ndarray) -> tuple[Tensor, SessionGraph, Tensor]:
    """Nodes int64 (B, U), their graph (B, U, U), and each place's node, int64 (B, T), of items (B, T)."""
    width = max(len(np.unique(row)) for row in items)
    nodes, into, out, places = [], [], [], []
    for row in items:
        node = np.unique(row)
        adjacency = np.zeros((width, width))
        for i in range(len(row) - 1):
            if row[i + 1] == 0:
                break
            u, v = np.where(node == row[i])[0][0], np.where(node == row[i + 1])[0][0]
            adjacency[u][v] = 1
        incoming, outgoing = np.sum(adjacency, 0), np.sum(adjacency, 1)
        incoming[incoming == 0] = 1
        outgoing[outgoing == 0] = 1
        into.append(np.divide(adjacency, incoming).transpose())
        out.append(np.divide(adjacency.transpose(), outgoing).transpose())
        nodes.append(node.tolist() + [0] * (width - len(node)))
        places.append([np.where(node == item)[0][0] for item in row])
    graph = SessionGraph(torch.from_numpy(np.array(into)).float(), torch.from_numpy(np.array(out)).float())
    return torch.tensor(nodes), graph, torch.tensor(np.array(places))


def common_model(recipe: Recipe) -> LLM4SBR:
    """The recipe's SR-GNN with the backbone above; loads the `state_dict` of `build(recipe)`."""
    model = build(recipe)
    model.backbone = CommonSRGNN(recipe.num_items, recipe.dim, **recipe.backbone_options)
    return model


class CommonBatch(NamedTuple):
    """Input of one training step."""

    items: Tensor
    """int64 (B, T)."""
    mask: Tensor
    """bool (B, T)."""
    target: Tensor
    """int64 (B,)."""
    intents: Tensor | None
    """float32 (B, P, E)."""


class CommonData:
    """Samples as Python lists and intents as text.

    Args:
        sessions: the sessions that the samples refer to.
        samples: M samples.
        intents: float (M, P, E), or None for the plain model.
        width: T, the longest prefix of the whole data set; None for the longest of these samples.
    """

    def __init__(
        self,
        sessions: Sessions,
        samples: Samples,
        intents: Tensor | None = None,
        *,
        width: int | None = None,
    ) -> None:
        clicks = sessions.items.tolist()
        spans = zip(samples.start.tolist(), samples.end.tolist(), strict=True)
        self.prefixes = [clicks[start:end] for start, end in spans]
        self.targets = [clicks[end] for end in samples.end.tolist()]
        self.width = width or max(map(len, self.prefixes))
        self.texts = None
        if intents is not None:
            self.texts = [[str(vector.tolist()) for vector in sample] for sample in intents]

    def batches(self, batch_size: int, seed: int) -> Iterator[CommonBatch]:
        """All samples once, in random order."""
        order = list(range(len(self.prefixes)))
        random.Random(seed).shuffle(order)
        for first in range(0, len(order), batch_size):
            yield self.batch(order[first : first + batch_size])

    def batch(self, numbers: list[int]) -> CommonBatch:
        """The samples with these numbers as a batch."""
        prefixes = [self.prefixes[number] for number in numbers]
        items = torch.tensor([prefix + [0] * (self.width - len(prefix)) for prefix in prefixes])
        target = torch.tensor([self.targets[number] for number in numbers])
        return CommonBatch(items, items > 0, target, self._parsed(numbers))

    def _parsed(self, numbers: list[int]) -> Tensor | None:
        if self.texts is None:
            return None
        vectors = [torch.tensor(ast.literal_eval(text)) for n in numbers for text in self.texts[n]]
        return torch.stack(vectors).view(len(numbers), -1, len(vectors[0]))


def train_step(model: LLM4SBR, optimizer: torch.optim.Optimizer, batch: CommonBatch, tau: float) -> None:
    """One step on the loss of the fast path."""
    losses = joint_loss(model.represent(batch.items, batch.mask, batch.intents), batch.target, tau=tau)
    optimizer.zero_grad()
    losses.total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
