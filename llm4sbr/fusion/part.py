"""A part of the catalogue."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """C items of the catalogue, numbered anew: what a training step on sampled items computes with."""

    ids: Tensor
    """int64 (C,), distinct catalogue ids."""
    place: Tensor
    """int64 (N + 1,): an item's number 1..C in the part, 0 for all others."""
