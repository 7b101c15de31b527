"""VMIS-kNN: scores items by sessions that are similar to the current one (Kersbergen et al., SIGMOD 2022).

This is the recommender of Serenade, an indexed form of VS-kNN (Ludewig & Jannach 2018). With s the current
session, |s| its number of distinct items, p_i the position of the last click on item i (1 = the first click),
and H the training sessions, h_j of which contain item j:

    pi_i = p_i / |s|                                   larger for later clicks
    M    = the m most recent sessions of H that share an item with s
    r_n  = sum of pi_i over the items that n shares with s,   for n in M
    K    = the k sessions of M with the largest r_n, of equal ones the more recent
    l_n  = max(0, 1 - 0.1 q_n),  q_n = how many clicks ago the latest shared item was (1 = the last click)
    score of j = log(|H| / h_j) * sum over the n in K that contain j of l_n r_n

The authors' released code differs from this: it never recommends the last item, which excludes items that
users return to; its l_n becomes negative for more than ten clicks; its |H| counts clicks instead of sessions;
and it does not index the longest 0.5% of the sessions.

`prepare` orders training sessions by their end, so later ones are more recent. Under `data.split = "random"`,
or in data without times, the order has no meaning and m only limits the computation. If a split puts prefixes
of one session into both training and test (`paper` with every prefix a sample), that session is its own
nearest neighbour and may contain the target. The metrics of this baseline then show how much the split leaks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm4sbr.baselines.incidence import Ints
from llm4sbr.baselines.session_neighbours import BatchClicks, NeighbourSessions, SessionKNN
from llm4sbr.protocols import Sessions


class VMISKNN(SessionKNN):
    """Scores items by the training sessions that contain them and share items with the current session.

    Args:
        num_items: N.
        m: number of most recent sessions that are compared.
        k: number of nearest neighbours.

    Raises:
        ConfigError: an option is out of range.
    """

    name = "vmis-knn"

    def __init__(self, num_items: int, *, m: int = 1_000, k: int = 200) -> None:
        super().__init__(num_items, m=m, k=k)

    def fit(self, sessions: Sessions) -> None:
        """Index the sessions."""
        super().fit(sessions)
        holding = self.index.sessions.lengths
        self.idf = np.log(max(1, len(self.index.items.lengths)) / holding.clip(min=1))

    def votes(self, clicks: BatchClicks, length: Ints) -> NDArray[np.float64]:
        """Scores of some rows of the batch, whose sessions have `length` clicks, float64 (rows, N)."""
        # Whole numbers p_i instead of pi_i, so that equal r_n are exactly equal; |s| divides them below.
        places = np.tile(np.arange(int(length.max(initial=0)) + 1), (len(length), 1))
        near = NeighbourSessions.recent(self.index, clicks, self.m, weights=places)
        near, overlap = near.closest(self.k, near.overlap)
        distinct = np.bincount(clicks.row, minlength=len(length))
        back = length[near.row] - near.latest + 1  # q_n
        weight = np.maximum(0, 1 - 0.1 * back) * overlap / distinct[near.row]  # l_n r_n
        items, voter = self.index.items.take(near.session)
        return self.summed(near.row[voter], items, weight[voter], len(length)) * self.idf
