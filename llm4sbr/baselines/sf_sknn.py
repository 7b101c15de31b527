"""SF-SKNN: items that followed the last item in similar sessions (Ludewig & Jannach 2018).

With s the current session as a set of items and H the training sessions:

    sim(n) = |s and n| / sqrt(|s| |n|)
    K      = the k sessions with the largest sim among the m most recent ones that share an item with s
    score of j = sum of sim(n) over the n in K where j follows the last item of s
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm4sbr.baselines.incidence import Ints, Lists
from llm4sbr.baselines.session_neighbours import BatchClicks, NeighbourSessions, SessionKNN
from llm4sbr.protocols import Sessions


class SFSKNN(SessionKNN):
    """Scores items by similar sessions in which they follow the last item.

    Args:
        num_items: N.
        m: number of most recent sessions that are compared.
        k: number of nearest neighbours.

    Raises:
        ConfigError: an option is out of range.
    """

    name = "sf-sknn"

    def __init__(self, num_items: int, *, m: int = 1_000, k: int = 500) -> None:
        super().__init__(num_items, m=m, k=k)

    def fit(self, sessions: Sessions) -> None:
        """Index the sessions."""
        super().fit(sessions)
        self.clicks = Lists(sessions.items.numpy() - 1, sessions.offsets.numpy())

    def votes(self, clicks: BatchClicks, length: Ints) -> NDArray[np.float64]:
        """Scores of some rows of the batch, whose sessions have `length` clicks, float64 (rows, N)."""
        ones = np.ones((len(length), int(length.max(initial=0)) + 1), np.int64)
        found = NeighbourSessions.recent(self.index, clicks, self.m, weights=ones)
        distinct = np.bincount(clicks.row, minlength=len(length))
        lengths = self.index.items.lengths
        cosine = found.overlap / np.sqrt(distinct[found.row] * lengths[found.session])
        near, similarity = found.closest(self.k, cosine)
        where, voter = self.clicks.positions(near.session)
        items = self.clicks.values[where]
        last, final = np.zeros(len(length), np.int64), clicks.place == length[clicks.row]
        last[clicks.row[final]] = clicks.item[final]
        follows = np.flatnonzero((voter[1:] == voter[:-1]) & (items[:-1] == last[near.row[voter[:-1]]])) + 1
        once = np.unique(voter[follows] * self.num_items + items[follows])
        voter, items = np.divmod(once, self.num_items)
        return self.summed(near.row[voter], items, similarity[voter], len(length))
