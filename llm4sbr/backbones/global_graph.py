"""Global graphs: co-occurrence of items in all training sessions, built once with tensor operations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from llm4sbr.protocols import Sessions


class Neighbours(NamedTuple):
    """Each item's strongest neighbours in a co-occurrence graph."""

    items: Tensor
    """int32 (N, S), catalogue ids, strongest first; 0 = none."""
    weights: Tensor
    """float32 (N, S): how often the two items were clicked near each other; 0 = none."""


class Hypergraph(NamedTuple):
    """A hypergraph with one edge per session, which joins all its items."""

    items: Tensor
    """int32 (C,): the distinct items of every session as rows 0..N-1, ascending within a session."""
    offsets: Tensor
    """int32 (sessions + 1,): session s joins `items[offsets[s]:offsets[s + 1]]`."""


def co_occurrence(sessions: Sessions, *, num_items: int, window: int, size: int) -> Neighbours:
    """The global graph of Wang et al. 2020 (GCE-GNN), section 3.2, cut to the strongest neighbours.

    The weight of a pair is the number of times that a session has the two at most `window` clicks apart, in
    either order. An item is not its own neighbour; of equally strong neighbours the lower id comes first.

    Args:
        sessions: training sessions.
        num_items: N.
        window: the paper's epsilon.
        size: S.
    """
    items, owner = sessions.items - 1, session_of_click(sessions)
    pairs = []
    for gap in range(1, window + 1):
        here, there = items[:-gap], items[gap:]
        near = (owner[:-gap] == owner[gap:]) & (here != there)
        pairs += [here[near] * num_items + there[near], there[near] * num_items + here[near]]
    pair, count = torch.unique(torch.cat(pairs), return_counts=True)  # ascending by item, then neighbour
    strongest = count.argsort(descending=True, stable=True)
    order = strongest[(pair[strongest] // num_items).argsort(stable=True)]
    item, neighbour, count = pair[order] // num_items, pair[order] % num_items, count[order]
    first = torch.searchsorted(item, torch.arange(num_items))
    rank = torch.arange(len(item)) - first[item]
    kept = rank < size
    found = Neighbours(
        torch.zeros(num_items, size, dtype=torch.int32), torch.zeros(num_items, size, dtype=torch.float32)
    )
    found.items[item[kept], rank[kept]] = (neighbour[kept] + 1).int()
    found.weights[item[kept], rank[kept]] = count[kept].float()
    return found


def hypergraph(sessions: Sessions, *, num_items: int) -> Hypergraph:
    """The hypergraph of Xia et al. 2021 (S2-DHCN): a session is an edge, whatever the order of its clicks."""
    count = len(sessions.offsets) - 1
    pair = torch.unique(session_of_click(sessions) * num_items + sessions.items - 1)
    offsets = torch.searchsorted(pair, torch.arange(count + 1) * num_items)
    return Hypergraph((pair % num_items).int(), offsets.int())


def session_of_click(sessions: Sessions) -> Tensor:
    """Int64 (clicks,): the number of the session that each click belongs to."""
    return torch.arange(len(sessions.offsets) - 1).repeat_interleave(sessions.offsets.diff())
