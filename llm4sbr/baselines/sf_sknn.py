"""SF-SKNN: items that followed the last item in similar sessions (Ludewig & Jannach 2018).

With s the current session as a set of items and H the training sessions:

    sim(n) = |s and n| / sqrt(|s| |n|)
    K      = the k sessions with the largest sim among the m most recent ones that share an item with s
    score of j = sum of sim(n) over the n in K where j follows the last item of s
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm4sbr.baselines.incidence import Incidence, Ints, Lists, chunks
from llm4sbr.baselines.session_neighbours import BatchClicks, NeighbourSessions
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions


class SFSKNN:
    """Scores items by similar sessions in which they follow the last item.

    Args:
        num_items: N.
        m: number of most recent sessions that are compared.
        k: number of nearest neighbours.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, num_items: int, *, m: int = 1_000, k: int = 500) -> None:
        if m < 1 or k < 1:
            raise ConfigError(f"sf-sknn: m = {m}, k = {k}: both must be 1 or more")
        self.num_items, self.m, self.k = num_items, m, k
        self.fit(Sessions(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)))

    def fit(self, sessions: Sessions) -> None:
        """Index the sessions."""
        self.index = Incidence.of(sessions, self.num_items)
        self.clicks = Lists(sessions.items.numpy() - 1, sessions.offsets.numpy())

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """Sums over the nearest neighbours, float32 (B, N), 0 if none has the item."""
        clicks = BatchClicks.of(items.numpy() - 1, mask.numpy(), self.num_items)
        end = (mask.sum(1, keepdim=True) - 1).clamp(min=0)
        last = (items.gather(1, end) - 1).squeeze(1).numpy()
        reached = self.index.sessions.lengths[clicks.item].clip(max=self.m)
        costs = np.bincount(clicks.row, reached, minlength=len(items)).astype(np.int64)
        scores = np.zeros((len(items), self.num_items), np.float32)
        for part in chunks(costs):
            scores[part] = self._votes(clicks.some(part), last[part])
        return torch.from_numpy(scores)

    def _votes(self, clicks: BatchClicks, last: Ints) -> NDArray[Any]:
        ones = np.ones((len(last), int(clicks.place.max(initial=0)) + 1), np.int64)
        found = NeighbourSessions.recent(self.index, clicks, self.m, weights=ones)
        distinct = np.bincount(clicks.row, minlength=len(last))
        lengths = self.index.items.lengths
        cosine = found.overlap / np.sqrt(distinct[found.row] * lengths[found.session])
        near, similarity = found.closest(self.k, cosine)
        where, voter = self.clicks.positions(near.session)
        items = self.clicks.values[where]
        follows = np.flatnonzero((voter[1:] == voter[:-1]) & (items[:-1] == last[near.row[voter[:-1]]])) + 1
        once = np.unique(voter[follows] * self.num_items + items[follows])
        voter, items = np.divmod(once, self.num_items)
        cells = near.row[voter] * self.num_items + items
        votes = np.bincount(cells, similarity[voter], minlength=len(last) * self.num_items)
        return votes.reshape(len(last), self.num_items)
