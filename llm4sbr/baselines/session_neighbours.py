"""Base of the models in which training sessions that share items with the current session vote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm4sbr.baselines.incidence import Incidence, Ints, chunks
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions


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


class SessionKNN(ABC):
    """Scores items by the most similar training sessions; the models differ in how these count (`votes`).

    Args:
        num_items: N.
        m: number of most recent sessions that are compared.
        k: number of nearest neighbours.

    Raises:
        ConfigError: an option is out of range.
    """

    name = "session-knn"

    def __init__(self, num_items: int, *, m: int, k: int) -> None:
        if m < 1 or k < 1:
            raise ConfigError(f"{self.name}: m = {m}, k = {k}: both must be 1 or more")
        self.num_items, self.m, self.k = num_items, m, k
        self.fit(Sessions(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)))

    def fit(self, sessions: Sessions) -> None:
        """Index the sessions."""
        self.index = Incidence.of(sessions, self.num_items)

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """Sums over the nearest neighbours, float32 (B, N), 0 if none has the item."""
        clicks = BatchClicks.of(items.numpy() - 1, mask.numpy(), self.num_items)
        length = mask.sum(1).numpy()
        reached = self.index.sessions.lengths[clicks.item].clip(max=self.m)
        costs = np.bincount(clicks.row, reached, minlength=len(items)).astype(np.int64)
        scores = np.zeros((len(items), self.num_items), np.float32)
        for part in chunks(costs):
            scores[part] = self.votes(clicks.some(part), length[part])
        return torch.from_numpy(scores)

    @abstractmethod
    def votes(self, clicks: BatchClicks, length: Ints) -> NDArray[Any]:
        """Scores of some rows of the batch, whose sessions have `length` clicks, float64 (rows, N)."""

    def summed(self, row: Ints, item: Ints, weight: NDArray[np.float64], rows: int) -> NDArray[Any]:
        """For each row and item the sum of the weights, float64 (rows, N)."""
        cells = row * self.num_items + item
        return np.bincount(cells, weight, minlength=rows * self.num_items).reshape(rows, self.num_items)
