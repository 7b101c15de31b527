"""The known session that is most like another: it stands in where a session has no intents of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm4sbr.data.batches import collate
from llm4sbr.intents import IntentStore
from llm4sbr.protocols import Samples, Sessions

TRIED = 16
"""Nearest sessions looked at for one whose answers were usable."""

COMPARED = 1000
"""Sessions with the same last item that are compared at most, the latest ones."""


class NearestSession:
    """Finds known sessions with the same last item that share the most items with a given one.

    Args:
        intents: the known sessions' intents.
        sessions: what the samples refer to.
        samples: the sessions that may be found; those without intents are passed over.
    """

    def __init__(self, intents: IntentStore, sessions: Sessions, samples: Samples) -> None:
        self.intents = intents
        self.sessions = sessions
        self.samples = by_row(intents, samples)
        """One sample per row of the intents; start = end = 0 where there is none."""
        end = self.samples.end
        last = sessions.items[end - 1].masked_fill(end == 0, 0)  # id 0 is never asked for
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
        """Rows of the closest sessions, int64, best first: most items shared, then the shortest."""
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
    """The first of some rows that has any intent, -1 if none has."""
    known = intents.gather(rows).flatten(1).any(1).nonzero()
    return int(rows[known[0, 0]]) if len(known) else -1


def by_row(intents: IntentStore, samples: Samples) -> Samples:
    """One sample per row of the intents; rows whose session is not there have start = end = 0."""
    rows = intents.rows(samples.key)
    known = (rows >= 0).nonzero().squeeze(1)
    sample = torch.full_like(intents.keys, -1)
    sample[rows[known]] = known  # of equal prefixes any one
    found = sample >= 0
    if not len(samples.key):
        return Samples(torch.zeros_like(sample), torch.zeros_like(sample), intents.keys)
    return Samples(samples.start[sample] * found, samples.end[sample] * found, intents.keys)
