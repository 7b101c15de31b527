"""The session graph as tensor operations: no loops over rows, no `unique`, nothing outside the model.

A session's graph has one node per distinct item and an edge u -> v wherever v was clicked right after u.
Nodes are not renumbered: every click carries the state of its item's node, so that clicks on one item always
have equal states, and edges follow from the positions. Shapes stay (B, T, T), no gather or scatter is needed,
and the graph exports to ONNX unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SessionGraph(NamedTuple):
    """Normalised adjacency between the clicks of each session; rows sum to 1, or to 0 without an edge."""

    incoming: Tensor
    """float (B, T, T): row t averages over the distinct items clicked right before the item at t."""
    outgoing: Tensor
    """float (B, T, T): row t averages over the distinct items clicked right after the item at t."""


def same_item(items: Tensor, mask: Tensor) -> Tensor:
    """Bool (B, T, T): clicks t and s are both real (not padding) and on the same item."""
    return (items.unsqueeze(2) == items.unsqueeze(1)) & mask.unsqueeze(2) & mask.unsqueeze(1)


def session_graph(items: Tensor, mask: Tensor) -> SessionGraph:
    """The directed graph of Wu et al. 2019, section "Constructing session graphs".

    Each distinct edge counts once, as in the authors' released code. In the paper's text an edge is weighted
    by how often it occurs, which differs only if a session repeats a transition.

    Args:
        items: int64 (B, T), right-padded.
        mask: bool (B, T), true at clicks.
    """
    same = same_item(items, mask)
    fresh = _first_transition(same, mask)  # (B, T - 1)
    # (B, T, T - 1): a first transition leaves the item of t at s ...
    steps = same[:, :, :-1] & fresh.unsqueeze(1)
    # ... or arrives at it at s + 1
    arrivals = same[:, :, 1:] & fresh.unsqueeze(1)
    none = torch.zeros_like(same[:, :, :1])
    return SessionGraph(
        incoming=_mean(torch.cat([arrivals, none], 2)),
        outgoing=_mean(torch.cat([none, steps], 2)),
    )


def _first_transition(same: Tensor, mask: Tensor) -> Tensor:
    """Bool (B, T - 1): the transition s -> s + 1 is real and no earlier one joins the same two items."""
    repeated = same[:, :-1, :-1] & same[:, 1:, 1:]  # (B, T - 1, T - 1): two transitions join the same items
    earlier = repeated.to(torch.float32).tril(-1).sum(2) > 0
    real = mask[:, 1:]  # right padding: a real click at s + 1 has a real one at s
    return real & ~earlier


def _mean(edges: Tensor) -> Tensor:
    weights = edges.to(torch.get_default_dtype())
    return weights / weights.sum(2, keepdim=True).clamp(min=1)
