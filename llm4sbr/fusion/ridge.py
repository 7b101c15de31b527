"""A linear item-item model in closed form, one small ridge regression per item.

The idea of SLIST (Choi et al., WWW 2021): what a session holds so far, S, tells what it holds later, T, and
what it holds at all, X. With the sum over all places at which a session can be cut, clicks before the cut
weighted exp(-age / 2) and clicks behind it exp(-distance / 2), the column b of an item is

    b = argmin a |T_item - S b|^2 + (1 - a) |X_item - X b|^2 + c |b|^2      a = 0.8
      = (G + c I)^-1 C_item      G = a S'S + (1 - a) X'X      C = a S'T + (1 - a) X'X

with b = 0 at the item itself. In full that is one system of size N. Here an item is told by its `SOURCES`
strongest sources alone (as in fsSLIM, Ning and Karypis, ICDM 2011), those with the largest C over the root of
G's diagonal, so that every item has a system of its own, of that size, and any catalogue will do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm4sbr.protocols import Sessions

SOURCES = 60
"""Items that an item is told by, at most."""

TRANSITIONS = 0.8
"""a, the share of what comes later."""

FADING = 2.0
"""Clicks after which a weight has fallen to 1 / e."""

FURTHEST = 50
"""Clicks that are further apart than this have nothing to do with each other."""

CHUNK = 256
"""Systems solved at once."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class ItemItem(NamedTuple):
    """The strongest entries of an item-item matrix, by the item clicked."""

    items: Tensor
    """int64 (N, M), rows of the catalogue (id - 1); 0 where the strength is 0."""
    strengths: Tensor
    """float32 (N, M), largest first, never negative."""


class Counts(NamedTuple):
    """The entries of G and C that are not zero, by row and column."""

    row: Ints
    column: Ints
    gram: Floats
    to_target: Floats


def fit(sessions: Sessions, num_items: int, *, neighbours: int, ridge: float) -> ItemItem:
    """The model of training sessions.

    Args:
        sessions: what to learn from.
        num_items: N.
        neighbours: M, entries kept per clicked item.
        ridge: c.
    """
    counts = count(sessions, num_items)
    starts = np.searchsorted(counts.row, np.arange(num_items + 1))
    diagonal = np.zeros(num_items, np.float32)
    own = counts.row == counts.column
    diagonal[counts.row[own]] = counts.gram[own]
    sources = _sources(counts, diagonal + ridge, num_items)
    parts = [
        _solve(counts, starts, sources, slice(at, at + CHUNK), ridge) for at in range(0, num_items, CHUNK)
    ]
    return _by_source(sources, np.concatenate(parts), min(neighbours, num_items))


def count(sessions: Sessions, num_items: int) -> Counts:
    """G and C of sessions, row after row, columns ascending."""
    items = sessions.items.numpy() - 1
    lengths = np.diff(sessions.offsets.numpy())
    left = np.repeat(sessions.offsets.numpy()[1:], lengths) - 1 - np.arange(len(items))  # clicks still to come
    found = [pl.DataFrame({"key": np.arange(0), "gram": np.zeros(0), "to_target": np.zeros(0)})]
    for apart in range(min(FURTHEST, int(lengths.max(initial=1)))):
        first = np.flatnonzero(left >= apart)
        one, two, after = items[first], items[first + apart], left[first + apart]
        kept = np.exp(-apart / FADING) * (1 - np.exp(-2 * after / FADING)) / (1 - np.exp(-2 / FADING))
        gram = TRANSITIONS * kept + 1 - TRANSITIONS
        step = TRANSITIONS * apart * np.exp(-(apart - 1) / FADING) + 1 - TRANSITIONS
        there = pl.DataFrame({"key": one * num_items + two, "gram": gram, "to_target": step})
        back = pl.DataFrame({"key": two * num_items + one, "gram": gram, "to_target": 1 - TRANSITIONS})
        found.append(pl.concat([there, back] if apart else [there], how="vertical_relaxed"))
        if apart % 8 == 7:  # sums take less room than pairs
            found = [_summed(found)]
    table = _summed(found).sort("key")
    row, column = np.divmod(table["key"].to_numpy(), num_items)
    gram, to_target = (table[name].to_numpy().astype(np.float32) for name in ("gram", "to_target"))
    return Counts(row, column, gram, to_target)


def _summed(found: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(found, how="vertical_relaxed").group_by("key").sum()


class _Sources(NamedTuple):
    """What every item is told by."""

    items: Ints
    """(N, L)."""
    to_target: Floats
    """(N, L), their entries of C; 0 where there are fewer sources."""


def _sources(counts: Counts, diagonal: Floats, num_items: int) -> _Sources:
    """The sources of every item, strongest first."""
    other = np.flatnonzero((counts.row != counts.column) & (counts.to_target > 0))
    row, column, value = counts.row[other], counts.column[other], counts.to_target[other]
    order = np.lexsort((-value / np.sqrt(diagonal[row]), column))
    row, column, value = row[order], column[order], value[order]
    place = np.arange(len(column)) - np.searchsorted(column, column)
    kept = place < SOURCES
    items = np.zeros((num_items, SOURCES), np.int64)
    to_target = np.zeros((num_items, SOURCES), np.float32)
    items[column[kept], place[kept]] = row[kept]
    to_target[column[kept], place[kept]] = value[kept]
    return _Sources(items, to_target)


def _solve(counts: Counts, starts: Ints, sources: _Sources, part: slice, ridge: float) -> Floats:
    """The columns of a part of the items, float32 (part, L)."""
    items, to_target = sources.items[part], sources.to_target[part]
    size = items.shape[1]
    owner, place = np.nonzero(to_target)
    row = items[owner, place]
    places = np.full((len(items), len(starts) - 1), -1, np.int16)  # an item's place among an owner's sources
    places[owner, row] = place
    lengths = starts[row + 1] - starts[row]
    entry = np.repeat(starts[row] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    owner, place = np.repeat(owner, lengths), np.repeat(place, lengths)
    to = places[owner, counts.column[entry]]
    inside = to >= 0
    gram = np.zeros((len(items), size, size), np.float32)
    gram[owner[inside], place[inside], to[inside]] = counts.gram[entry[inside]]
    gram[:, np.arange(size), np.arange(size)] += ridge
    factor = torch.linalg.cholesky(torch.from_numpy(gram))
    solved = torch.cholesky_solve(torch.from_numpy(to_target).unsqueeze(2), factor).squeeze(2)
    return solved.numpy() * (to_target > 0)


def _by_source(sources: _Sources, strengths: Floats, most: int) -> ItemItem:
    """From columns by target to the strongest entries by source."""
    num_items, size = strengths.shape
    kept = np.flatnonzero(strengths > 0)
    source, strength, target = sources.items.flat[kept], strengths.flat[kept], kept // size
    order = np.lexsort((target, -strength, source))
    source, strength, target = source[order], strength[order], target[order]
    place = np.arange(len(source)) - np.searchsorted(source, source)
    inside = place < most
    items = torch.zeros(num_items, most, dtype=torch.int64)
    found = torch.zeros(num_items, most)
    items[source[inside], place[inside]] = torch.from_numpy(target[inside])
    found[source[inside], place[inside]] = torch.from_numpy(strength[inside].astype(np.float32))
    return ItemItem(items, found)
