"""Finds training sessions that share items with the current session."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr.baselines.incidence import Incidence, Ints


class BatchClicks(NamedTuple):
    """The latest click on each distinct item of each session of a batch."""

    row: Ints
    """The session's row in the batch, in ascending order."""
    item: Ints
    """The item's index."""
    place: Ints
    """The click's position in the session, from 1."""

    @classmethod
    def of(cls, items: Ints, mask: NDArray[np.bool_], num_items: int) -> BatchClicks:
        """The clicks of a batch: item indices (B, T), and mask (B, T), true at clicks."""
        row, step = np.nonzero(mask)
        cells = row * num_items + items[row, step]
        _, backwards = np.unique(cells[::-1], return_index=True)  # the first in reverse order is the latest
        latest = np.sort(len(cells) - 1 - backwards)
        return cls(row[latest], items[row, step][latest], step[latest] + 1)

    def some(self, rows: Ints) -> BatchClicks:
        """The clicks of consecutive rows of the batch, which are numbered from 0 in the result."""
        inside = slice(*np.searchsorted(self.row, [rows[0], rows[-1] + 1]))
        return BatchClicks(self.row[inside] - rows[0], self.item[inside], self.place[inside])


class NeighbourSessions(NamedTuple):
    """Pairs of a session of the batch and a training session that shares items with it."""

    row: Ints
    """The session's row in the batch, in ascending order."""
    session: Ints
    """The number of the training session."""
    overlap: NDArray[Any]
    """The sum of the weights of the shared items."""
    latest: Ints
    """Position of the last click on a shared item in the session of the batch, from 1."""

    @classmethod
    def recent(
        cls, index: Incidence, clicks: BatchClicks, m: int, *, weights: NDArray[Any]
    ) -> NeighbourSessions:
        """The m most recent training sessions that share an item, most recent first.

        Only the m most recent sessions of each clicked item are looked at, since no other session of this
        item can be among the m most recent ones overall.

        Args:
            index: index of the training sessions.
            clicks: clicks of the batch.
            m: maximum number of training sessions per session of the batch.
            weights: weights of the clicks, (B, T + 1), by row and position. With whole numbers, equal sums
                are exactly equal; sums of fractions may differ by rounding.
        """
        total, width = len(index.items.lengths), weights.shape[1]
        where, click = index.sessions.positions(clicks.item, most=m)
        age = total - 1 - index.sessions.values[where]
        # Row, age and position are combined into one number, so that a single sort orders by all three.
        pairs, place = np.divmod(
            np.sort((clicks.row[click] * total + age) * width + clicks.place[click]), width
        )
        first = np.flatnonzero(np.diff(pairs, prepend=-1))
        row, age = np.divmod(pairs[first], total)
        counted = weights[pairs // total, place]
        overlap = np.add.reduceat(counted, first) if len(first) else counted
        latest = place[np.append(first[1:], len(place)) - 1] if len(first) else first
        return cls(row, total - 1 - age, overlap, latest)._first(m)

    def closest(self, k: int, similarity: NDArray[Any]) -> tuple[NeighbourSessions, NDArray[Any]]:
        """The k most similar sessions of each row, and their similarities; of equal ones the first."""
        order = np.lexsort((-similarity, self.row))
        order = order[_rank(self.row[order]) < k]
        return NeighbourSessions(*(field[order] for field in self)), similarity[order]

    def _first(self, most: int) -> NeighbourSessions:
        keep = _rank(self.row) < most
        return NeighbourSessions(*(field[keep] for field in self))


def _rank(rows: Ints) -> Ints:
    """The position of each element among those of its row, from 0; `rows` is in ascending order."""
    ranks: Ints = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return ranks


def votes(
    index: Incidence, near: NeighbourSessions, weight: NDArray[Any], *, rows: int, num_items: int
) -> NDArray[Any]:
    """For each item the sum of the weights of the neighbours that contain it, float64 (rows, N)."""
    items, voter = index.items.take(near.session)
    cells = near.row[voter] * num_items + items
    found = np.bincount(cells, weight[voter], minlength=rows * num_items)
    return found.reshape(rows, num_items)
