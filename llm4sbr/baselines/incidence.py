"""Which items a training session contains, and which sessions contain an item.

The nearest-neighbour methods use it as an index: from the items of the current session to the training
sessions that contain them, and from these to their other items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr.protocols import Sessions

Ints = NDArray[np.int64]

MOST_PAIRS = 2**20
"""Maximum number of (session, item) pairs in intermediate arrays, which then take about 100 MB."""


class Lists(NamedTuple):
    """Lists of different lengths in one flat array: list r is `values[offsets[r]:offsets[r + 1]]`."""

    values: Ints
    offsets: Ints

    @property
    def lengths(self) -> Ints:
        """The length of each list."""
        return np.diff(self.offsets)

    def positions(self, rows: Ints, *, most: int | None = None) -> tuple[Ints, Ints]:
        """The positions in `values` of all elements of some lists.

        Args:
            rows: numbers of the lists.
            most: only the first `most` elements of each list; None for all.

        Returns:
            The positions, list after list, and for each of them the index in `rows` of its list.
        """
        lengths = self.lengths[rows]
        if most is not None:
            lengths = lengths.clip(max=most)
        owner = np.repeat(np.arange(len(rows)), lengths)
        first = self.offsets[rows] - (np.cumsum(lengths) - lengths)
        return np.repeat(first, lengths) + np.arange(len(owner)), owner

    def take(self, rows: Ints) -> tuple[Ints, Ints]:
        """As `positions`, with the values in place of their positions."""
        where, owner = self.positions(rows)
        return self.values[where], owner


class Incidence(NamedTuple):
    """The distinct items of each session and the sessions of each item.

    Sessions are numbered from 0 in their order; items are given by index (catalogue id - 1).
    """

    items: Lists
    """The items of each session, in ascending order."""
    sessions: Lists
    """The sessions of each item, the most recent first."""

    @classmethod
    def of(cls, sessions: Sessions, num_items: int) -> Incidence:
        """Index training sessions, which are ordered from the oldest to the most recent."""
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
    """Split the rows 0, 1, ... of a batch into parts that are processed one after the other.

    Memory is limited that way: the costs of a part sum to about `MOST_PAIRS`. A row that costs more is a part
    of its own.

    Args:
        costs: for each row of the batch, the number of pairs that it needs.
    """
    ends = np.cumsum(costs)
    run = (ends - costs) // MOST_PAIRS
    return np.split(np.arange(len(costs)), np.flatnonzero(np.diff(run)) + 1)


def _offsets(rows: Ints, count: int) -> Ints:
    return np.append(0, np.cumsum(np.bincount(rows, minlength=count))).astype(np.int64)
