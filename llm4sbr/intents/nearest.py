"""Finds the known session most similar to a new one, to use its intents for a session without any."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm4sbr.data.batches import collate
from llm4sbr.intents import IntentStore
from llm4sbr.protocols import Samples, Sessions

TRIED = 16
"""Number of nearest sessions to try, until one has an intent."""

COMPARED = 1000
"""Maximum number of sessions compared: the most recent ones with the same last item."""


class NearestSession:
    """Finds known sessions with the same last item that share the most items with a given session.

    Args:
        intents: intents of the known sessions.
        sessions: the sessions that the samples refer to.
        samples: the known sessions; those without intents are skipped.
    """

    def __init__(self, intents: IntentStore, sessions: Sessions, samples: Samples) -> None:
        self.intents = intents
        self.sessions = sessions
        self.samples = by_row(intents, samples)
        """One sample per row of the intents; start = end = 0 for a row without a sample."""
        end = self.samples.end
        last = sessions.items[end - 1].masked_fill(end == 0, 0)  # id 0 is never looked up
        by_time = end.argsort(stable=True)
        self._order = by_time[last[by_time].argsort(stable=True)]
        self._last = last[self._order]

    def find(self, ids: Sequence[int]) -> int:
        """The row of the nearest session that has an intent, -1 if there is none.

        Args:
            ids: catalogue ids, oldest first, not empty.
        """
        return usable(self.intents, self._ranked(ids))

    def _ranked(self, ids: Sequence[int]) -> Tensor:
        """Rows of the most similar sessions, int64: most shared items first, then the shortest."""
        bounds = torch.tensor([ids[-1], ids[-1] + 1])
        low, high = torch.searchsorted(self._last, bounds).tolist()
        rows = self._order[max(low, high - COMPARED) : high]
        if not len(rows):
            return rows
        known = collate(self.sessions, self.samples, rows)  # (c, T)
        shared = torch.stack([(known.items == item).any(1) for item in set(ids)]).sum(0)
        rank = shared * (known.mask.shape[1] + 1) - known.mask.sum(1)
        return rows[rank.argsort(descending=True, stable=True)][:TRIED]


def usable(intents: IntentStore, rows: Tensor) -> int:
    """The first of these rows that has an intent; -1 if none has."""
    known = intents.gather(rows).flatten(1).any(1).nonzero()
    return int(rows[known[0, 0]]) if len(known) else -1


def by_row(intents: IntentStore, samples: Samples) -> Samples:
    """One sample per row of the intents; rows without a sample have start = end = 0."""
    rows = intents.rows(samples.key)
    known = (rows >= 0).nonzero().squeeze(1)
    sample = torch.full_like(intents.keys, -1)
    sample[rows[known]] = known  # any one of equal prefixes
    found = sample >= 0
    if not len(samples.key):
        return Samples(torch.zeros_like(sample), torch.zeros_like(sample), intents.keys)
    return Samples(samples.start[sample] * found, samples.end[sample] * found, intents.keys)
