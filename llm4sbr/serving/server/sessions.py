"""Sessions given as tensors: items that the model does not know, and sessions that are too long for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Sessions(NamedTuple):
    """What the model takes of sessions."""

    items: Ids
    """int64 (B, T): clicks, then older ones, which the model does not read, then padding."""
    mask: Flags
    """bool (B, T)."""
    left_out: tuple[list[int], ...] = ()
    """The unknown ids of every session; empty if all are known."""
    unknown: Flags | None = None
    """bool (B,), true where nothing is known of a session, in whose place the first item stands."""


def usable(items: Ids, mask: Flags, exclude_seen: Flags, *, size: int, longest: int) -> Sessions:
    """Sessions without items that are newer than the model, and with their last clicks only.

    Args:
        items: int64 (B, T), ids from 1 on, 0 where `mask` is false.
        mask: bool (B, T), clicks before padding, at least one in every session.
        exclude_seen: bool (B, 1); older clicks are kept where it is true, to be left out of the list.
        size: N.
        longest: most clicks that the model reads.
    """
    strange = mask & (items > size)
    if not strange.any() and items.shape[1] <= longest:
        return Sessions(items, mask)
    rows: list[Ids] = []
    counts: list[int] = []
    for one, there, exclude in zip(items, mask & ~strange, exclude_seen[:, 0], strict=True):
        clicks = one[there]
        recent = clicks[-longest:] if len(clicks) else np.ones(1, np.int64)
        older = np.setdiff1d(clicks[:-longest], recent) if exclude else clicks[:0]
        rows.append(np.concatenate([recent, older]))
        counts.append(len(recent))
    found = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, one in enumerate(rows):
        found[row, : len(one)] = one
    read = np.arange(found.shape[1]) < np.array(counts)[:, None]
    if not strange.any():
        return Sessions(found, read)
    left_out = tuple(one[there].tolist() for one, there in zip(items, strange, strict=True))
    unknown: NDArray[Any] = strange.sum(1) == mask.sum(1)
    return Sessions(found, read, left_out, unknown if unknown.any() else None)
