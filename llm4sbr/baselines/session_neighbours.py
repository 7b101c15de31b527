"""Base of the models in which training sessions that share items with the current session vote."""

from __future__ import annotations

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
    """Which session of the batch, in ascending order."""
    item: Ints
    """Which item, as a row number."""
    place: Ints
    """Its place in the session: 1 is the first click."""

    @classmethod
    def of(cls, items: Ints, mask: NDArray[np.bool_], num_items: int) -> BatchClicks:
        """Those of items (B, T), as row numbers, under mask (B, T)."""
        row, step = np.nonzero(mask)
        cells = row * num_items + items[row, step]
        _, backwards = np.unique(cells[::-1], return_index=True)  # the first from behind is the latest
        latest = np.sort(len(cells) - 1 - backwards)
        return cls(row[latest], items[row, step][latest], step[latest] + 1)

    def some(self, rows: Ints) -> BatchClicks:
        """Those of the sessions `rows`, a run of them, which are counted from 0 now."""
        inside = slice(*np.searchsorted(self.row, [rows[0], rows[-1] + 1]))
        return BatchClicks(self.row[inside] - rows[0], self.item[inside], self.place[inside])


class NeighbourSessions(NamedTuple):
    """Training sessions that share items with those of a batch; those of a row stand together."""

    row: Ints
    """Which session of the batch, in ascending order."""
    session: Ints
    """Which training session."""
    overlap: NDArray[Any]
    """The sum of the weights of the shared items."""
    latest: Ints
    """The greatest of their places in the session of the batch."""

    @classmethod
    def recent(
        cls, index: Incidence, clicks: BatchClicks, m: int, *, weights: NDArray[Any]
    ) -> NeighbourSessions:
        """The m most recent sessions that share an item, most recent first.

        Each item's own m most recent sessions suffice: beyond them there are m more recent ones already.

        Args:
            index: of the training sessions.
            clicks: of a batch.
            m: most sessions for each of the batch.
            weights: of the batch's clicks by row and place; whole numbers keep ties.
        """
        total, width = len(index.items.lengths), weights.shape[1]
        where, click = index.sessions.positions(clicks.item, most=m)
        age = total - 1 - index.sessions.values[where]
        # One number holds row, age and place, so that one sort brings together what belongs together.
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
        """The k of each row with the greatest similarity, of tied ones the first, and that similarity."""
        order = np.lexsort((-similarity, self.row))
        order = order[_rank(self.row[order]) < k]
        return NeighbourSessions(*(field[order] for field in self)), similarity[order]

    def _first(self, most: int) -> NeighbourSessions:
        keep = _rank(self.row) < most
        return NeighbourSessions(*(field[keep] for field in self))


def _rank(rows: Ints) -> Ints:
    """The number of each element within its row."""
    ranks: Ints = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return ranks


class SessionKNN:
    """Scores items by the votes of similar sessions; how they vote is left to the models (`votes`).

    Args:
        num_items: N.
        m: most recent sessions looked at.
        k: neighbours that vote.

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
        """The neighbours' votes, float32 (B, N), 0 where nobody votes."""
        clicks = BatchClicks.of(items.numpy() - 1, mask.numpy(), self.num_items)
        length = mask.sum(1).numpy()
        reached = self.index.sessions.lengths[clicks.item].clip(max=self.m)
        costs = np.bincount(clicks.row, reached, minlength=len(items)).astype(np.int64)
        scores = np.zeros((len(items), self.num_items), np.float32)
        for part in chunks(costs):
            scores[part] = self.votes(clicks.some(part), length[part])
        return torch.from_numpy(scores)

    def votes(self, clicks: BatchClicks, length: Ints) -> NDArray[Any]:
        """Scores (rows, N) of a few sessions of `length` clicks each."""
        raise NotImplementedError

    def summed(self, row: Ints, item: Ints, weight: NDArray[np.float64], rows: int) -> NDArray[Any]:
        """Votes for `item` in the session `row`, each of a weight, as sums float64 (rows, N)."""
        cells = row * self.num_items + item
        return np.bincount(cells, weight, minlength=rows * self.num_items).reshape(rows, self.num_items)
