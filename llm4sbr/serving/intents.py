"""Where a live session's intents come from, as no LLM is asked while somebody waits.

cache     this very session was asked about
nearest   the known session with the same last item that shares the most items with this one
none      zero intents, as in training where there was no answer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.data.batches import collate, prefix_key
from llm4sbr.data.prepared import Prepared
from llm4sbr.intents import IntentStore
from llm4sbr.protocols import Samples

Source = Literal["cache", "nearest", "none"]
SOURCES = ("cache", "nearest", "none")

TRIED = 16
"""Nearest sessions looked at for one whose answers were usable."""


@dataclass(frozen=True)
class Tied:
    """An item that an answer was tied to."""

    id: int
    key: str
    title: str
    weight: float


@dataclass(frozen=True)
class Thought:
    """What the LLM said from one perspective, and what it was taken to mean."""

    perspective: str
    answer: str
    """As parsed; "" if it was unusable or is no longer kept."""
    items: list[Tied]
    """Best first."""


@dataclass(frozen=True)
class Explanation:
    """Where the intents came from."""

    source: Source
    session: list[str] = field(default_factory=list)
    """Titles of the known session whose answers these are."""
    thoughts: list[Thought] = field(default_factory=list)


class LiveIntents:
    """Finds intents for sessions that come in now.

    Args:
        intents: the known sessions' intents.
        prepared: the run's data; sessions of every split are known.
        answers: folder with the parsed answers, `<perspective>.parquet`; may be gone.
    """

    def __init__(self, intents: IntentStore, prepared: Prepared, answers: Path) -> None:
        self.intents = intents
        self.prepared = prepared
        self.answers = answers
        self._samples = _by_row(intents, prepared)
        last = prepared.sessions.items[self._samples.end - 1]
        last = last.masked_fill(self._samples.end == 0, 0)  # in no session; id 0 is never asked for
        self._order = last.argsort(stable=True)
        self._last = last[self._order]
        self._tables: dict[str, pl.DataFrame] = {}

    def find(self, ids: Sequence[int], source: str = "auto") -> tuple[Tensor, Explanation]:
        """Intents float32 (1, P, E) for a session of catalogue ids, oldest first, and where they came from.

        Args:
            ids: the session, not empty, cut to the length that the model saw.
            source: the only place to look in, `cache`, `nearest` or `none`; `auto` takes the first of these
                that has something.
        """
        row = -1
        if source in ("auto", "cache"):
            row = self._usable(self.intents.rows(torch.tensor([prefix_key(ids)])))
        found: Source = "cache"
        if row < 0 and source in ("auto", "nearest"):
            row, found = self._usable(self._nearest(ids)), "nearest"
        vectors = self.intents.gather(torch.tensor([row]))
        return vectors, self._explain(row, found) if row >= 0 else Explanation("none")

    def _usable(self, rows: Tensor) -> int:
        """The first row with any intent, -1 if there is none."""
        known = self.intents.gather(rows).flatten(1).any(1).nonzero()
        return int(rows[known[0, 0]]) if len(known) else -1

    def _nearest(self, ids: Sequence[int]) -> Tensor:
        """Rows of the closest sessions, int64, best first: most items shared, then the shortest."""
        bounds = torch.tensor([ids[-1], ids[-1] + 1])
        low, high = torch.searchsorted(self._last, bounds).tolist()
        rows = self._order[low:high]
        if not len(rows):
            return rows
        known = collate(self.prepared.sessions, self._samples, rows)  # (c, T)
        shared = torch.stack([(known.items == item).any(1) for item in set(ids)]).sum(0)
        rank = shared * (known.mask.shape[1] + 1) - known.mask.sum(1)
        return rows[rank.argsort(descending=True, stable=True)][:TRIED]

    def _explain(self, row: int, source: Source) -> Explanation:
        catalogue = self.prepared.catalogue
        items, weights = (part[0].tolist() for part in self.intents.located(torch.tensor([row])))
        thoughts = []
        for name, tied, shares in zip(self.intents.perspectives, items, weights, strict=True):
            pairs = [(catalogue.item(id), share) for id, share in zip(tied, shares, strict=True) if id]
            located = [Tied(item.id, item.key, item.title, share) for item, share in pairs]
            thoughts.append(Thought(name, self._answer(name, int(self.intents.keys[row])), located))
        session = self.prepared.prefix(self._samples, row)
        return Explanation(source, [catalogue.titles[id - 1] for id in session], thoughts)

    def _answer(self, perspective: str, key: int) -> str:
        path = self.answers / f"{perspective}.parquet"
        if perspective not in self._tables:
            if not path.exists():
                return ""
            self._tables[perspective] = store.read_table(path, ["key", "parsed"])
        found = self._tables[perspective].filter(pl.col("key") == key)["parsed"]
        return str(found[0]) if len(found) else ""


def _by_row(intents: IntentStore, prepared: Prepared) -> Samples:
    """One sample per row of the store; rows of sessions that are not there have start = end = 0."""
    start, end, key = (torch.cat(part) for part in zip(*prepared.samples.values(), strict=True))
    rows = intents.rows(key)
    known = (rows >= 0).nonzero().squeeze(1)
    sample = torch.full_like(intents.keys, -1)
    sample[rows[known]] = known  # of equal prefixes any one
    found = sample >= 0
    return Samples(start[sample] * found, end[sample] * found, intents.keys)
