"""VMIS-kNN: sessions similar to the current one vote for their items (Kersbergen et al., SIGMOD 2022).

The definition of Serenade's recommender, an indexed form of VS-kNN (Ludewig & Jannach 2018). With s the
current session, |s| its distinct items, p_i the position of the last click on item i (1 = the first click),
and H the training sessions, h_j of which contain item j:

    pi_i = p_i / |s|                                   decay: later clicks weigh more
    M    = the m most recent sessions of H that share an item with s
    r_n  = sum of pi_i over the items that n shares with s,   for n in M
    K    = the k sessions of M with the greatest r_n, the more recent one where they tie
    l_n  = max(0, 1 - 0.1 q_n),  q_n = how many clicks back the latest shared item is (1 = the last click)
    score of j = log(|H| / h_j) * sum over n in K that hold j of l_n r_n

Deviations from the authors' released code: the last item may be in the list, where the code leaves it out
and loses what people come back to; l_n stops at 0, where the code's grows negative behind the tenth click;
|H| counts sessions, where the code counts clicks; sessions of any length are indexed, where the code leaves
out the longest 0.5%.

Later training sessions are the more recent ones: `prepare` sorts them by their end, except under
`data.split = "random"` or without times; then recency has no meaning and m only limits the cost. If a split
puts prefixes of one session into training and test (`paper` with every prefix a sample), that session is its
own nearest neighbour and may contain the target: the row then shows the split's leak.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm4sbr.baselines.incidence import Ints
from llm4sbr.baselines.session_neighbours import BatchClicks, NeighbourSessions, SessionKNN
from llm4sbr.protocols import Sessions


class VMISKNN(SessionKNN):
    """Scores items by the sessions that hold them and share items with the session at hand.

    Args:
        num_items: N.
        m: most recent sessions looked at.
        k: neighbours that vote.

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
        """As in the base."""
        places = np.tile(np.arange(int(length.max(initial=0)) + 1), (len(length), 1))  # r_n |s|, so ties tie
        near = NeighbourSessions.recent(self.index, clicks, self.m, weights=places)
        near, overlap = near.closest(self.k, near.overlap)
        distinct = np.bincount(clicks.row, minlength=len(length))
        back = length[near.row] - near.latest + 1  # q_n
        weight = np.maximum(0, 1 - 0.1 * back) * overlap / distinct[near.row]  # l_n r_n
        items, voter = self.index.items.take(near.session)
        return self.summed(near.row[voter], items, weight[voter], len(length)) * self.idf
