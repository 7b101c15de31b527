"""The items of each session and the sessions of each item: the index of the nearest-neighbour methods."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr.protocols import Sessions

Ints = NDArray[np.int64]

MOST_PAIRS = 2**20
"""Pairs expanded at once: about 100 MB of intermediate arrays."""


class Lists(NamedTuple):
    """Lists of numbers as one flat array: list r is `values[offsets[r]:offsets[r + 1]]`."""

    values: Ints
    offsets: Ints

    @property
    def lengths(self) -> Ints:
        """Of each list."""
        return np.diff(self.offsets)

    def positions(self, rows: Ints, *, most: int | None = None) -> tuple[Ints, Ints]:
        """Where the lists `rows` stand in `values`, one after the other, and which of the rows each is of.

        Args:
            rows: numbers of lists.
            most: take no more than the first so many of each list.
        """
        lengths = self.lengths[rows]
        if most is not None:
            lengths = lengths.clip(max=most)
        owner = np.repeat(np.arange(len(rows)), lengths)
        first = self.offsets[rows] - (np.cumsum(lengths) - lengths)
        return np.repeat(first, lengths) + np.arange(len(owner)), owner

    def take(self, rows: Ints) -> tuple[Ints, Ints]:
        """The values of the lists `rows`, one after the other, and which of the rows each is of."""
        where, owner = self.positions(rows)
        return self.values[where], owner


class Incidence(NamedTuple):
    """Distinct (session, item) pairs, both ways; sessions by number, items by row (catalogue id - 1)."""

    items: Lists
    """By session."""
    sessions: Lists
    """By item, most recent session first."""

    @classmethod
    def of(cls, sessions: Sessions, num_items: int) -> Incidence:
        """Index training sessions; the later one stands in `sessions`, the more recent it is."""
        count = len(sessions.offsets) - 1
        owner = np.repeat(np.arange(count), np.diff(sessions.offsets.numpy()))
        pairs = np.unique(owner * num_items + (sessions.items.numpy() - 1))
        owner, items = np.divmod(pairs, num_items)
        backwards = np.argsort(items[::-1], kind="stable")
        return cls(
            Lists(items, _offsets(owner, count)),
            Lists(owner[::-1][backwards], _offsets(items, num_items)),
        )


def chunks(costs: Ints) -> list[Ints]:
    """Rows 0, 1, ... in runs whose costs sum to about `MOST_PAIRS`; a costly row stands alone."""
    ends = np.cumsum(costs)
    run = (ends - costs) // MOST_PAIRS
    return np.split(np.arange(len(costs)), np.flatnonzero(np.diff(run)) + 1)


def _offsets(rows: Ints, count: int) -> Ints:
    return np.append(0, np.cumsum(np.bincount(rows, minlength=count))).astype(np.int64)
