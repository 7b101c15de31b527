"""Pools the token states of a text into one vector; poolings have the names of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

POOLINGS: tuple[str, ...] = get_args(Pooling)


def pool(states: Tensor, mask: Tensor, ways: Sequence[str]) -> Tensor:
    """Token states float (B, T, H) -> vectors (B, len(ways) * H), concatenated in the order of `ways`.

    Args:
        states: token states, padded on the right.
        mask: bool (B, T), False at padding; the first token of a row is never padding.
        ways: names of poolings.
    """
    return torch.cat([WAYS[way](states, mask) for way in ways], 1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _last(states: Tensor, mask: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]


def _max(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return _sum(states, mask) / mask.sum(1, keepdim=True)


def _mean_root(states: Tensor, mask: Tensor) -> Tensor:
    """The sum divided by the square root of the number of tokens."""
    return _sum(states, mask) / mask.sum(1, keepdim=True).sqrt()


def _weighted(states: Tensor, mask: Tensor) -> Tensor:
    """The mean with weights 1, 2, 3 ... (Muennighoff 2022, SGPT, section 3.1)."""
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return _sum(states, weights) / weights.sum(1, keepdim=True)


def _sum(states: Tensor, weights: Tensor) -> Tensor:
    return (states * weights.unsqueeze(-1).to(states.dtype)).sum(1)


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_root,
    "weightedmean": _weighted,
    "lasttoken": _last,
}
"""Name -> function of (states, mask) -> vectors (B, H)."""
