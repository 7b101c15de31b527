"""Finds items by key, misspelt title, part of a title or attribute, without blocking other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from difflib import get_close_matches
from heapq import nlargest
from itertools import islice
from typing import TypeVar

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

from llm4sbr.errors import InputError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.attributes import Attributes, Texts
from llm4sbr.serving.names import Titles, fold
from llm4sbr.serving.server.http import busy
from llm4sbr.serving.titles import Resolved, TitleIndex, Understood, UnknownItem

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")

WAITING = 16
"""Maximum number of waiting title searches; a misspelt title takes time proportional to the catalogue."""

MISSPELT = 20
"""Maximum number of different misspelt titles per request: each is compared with the whole catalogue, while
searches of other requests wait."""

FOUND = 20
"""Maximum number of items in a search result."""

SLICE = 4096
"""Titles compared per call; other threads can run in between."""

ROUGH = 64
"""Number of titles that rapidfuzz finds, among which `difflib` decides."""


class Lookup:
    """Finds the items of one model by id, key, title or attribute; slow searches run in their own thread."""

    def __init__(self, catalogue: Catalogue, attributes: Attributes | None = None) -> None:
        self.catalogue = catalogue
        self.attributes = attributes or Attributes({})
        self.titles = TitleIndex(catalogue, matches=close_matches)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lookup")
        self._waiting = 0

    async def prepare(self) -> None:
        """Prepare the search for misspelt titles."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self.titles.prepare)

    async def resolve(self, items: Sequence[str | int], *, unknown: str = "skip") -> Understood:
        """The items meant by catalogue ids, keys or titles, see `resolve_session`.

        Raises:
            InputError: an unknown item that is not left out, one that could be several, or more than
                `MISSPELT` misspelt ones.
            Refusal: 503, too many requests with misspelt titles at once.
        """
        found = [self._quick(item) for item in items]
        if None not in found:
            return Understood([one for one in found if one is not None], [])
        return Understood.of(await self.apart(self._slow, items), items, unknown)

    async def apart(self, work: Callable[[_Given], _Found], given: _Given) -> _Found:
        """The result of slow work, run in the search thread.

        Raises:
            Refusal: 503, too much of it waits already.
        """
        if self._waiting >= WAITING:
            raise busy(503, "too many slow look-ups at once; use keys or exact titles, or try again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work, given)
        finally:
            self._waiting -= 1

    def search(self, text: str) -> dict[int, str]:
        """Catalogue ids of the first items that a text may mean, and by what of them.

        First the one with this `key` or title, then those with the text in their `title`, ignoring case; only
        if there are none, the title that is spelt alike (`spelling`), and those with an `attribute` that has
        the text in it.
        """
        text = text.strip()
        found: dict[int, str] = {}
        if (exact := self.titles.exact(text)) is not None:
            found[exact.id] = exact.how
        found |= {id: "title" for id in self._containing(text) if id not in found}
        if not found and (close := self._close(text)) is not None:
            found[close] = "spelling"
        if len(found) < FOUND and text:
            found |= {id: "attribute" for id in self._with_attribute(text) if id not in found}
        return dict(islice(found.items(), FOUND))

    def _close(self, text: str) -> int | None:
        with suppress(InputError):  # several titles are spelt alike
            found = self.titles.match(text) or self.titles.close(text)
            return found.id if found else None
        return None

    def _with_attribute(self, text: str) -> list[int]:
        """The first items with a text in an attribute, ignoring case."""
        wanted, found = text.casefold(), list[int]()
        for column in self.attributes.columns.values():
            if isinstance(column, Texts):
                holds = np.array([wanted in value.casefold() for value in column.values], np.bool_)
                if holds.any():
                    found += (np.flatnonzero(holds[column.codes])[:FOUND] + 1).tolist()
        return found

    def _containing(self, text: str) -> list[int]:
        if not text:
            return list(range(1, min(FOUND, self.catalogue.size) + 1))
        if isinstance(self.catalogue.titles, Titles):
            return self.catalogue.titles.folded.containing(fold(text), FOUND)
        wanted = text.lower()
        titles = enumerate(self.catalogue.titles, 1)
        return list(islice((id for id, title in titles if wanted in title.lower()), FOUND))

    def _quick(self, item: str | int) -> Resolved | None:
        return self.titles.resolve(item) if isinstance(item, int) else self.titles.exact(item.strip())

    def _slow(self, items: Sequence[str | int]) -> list[Resolved | UnknownItem]:
        found: dict[str | int, Resolved | UnknownItem] = {}
        misspelt = 0
        for item in dict.fromkeys(items):
            one = None if isinstance(item, int) else self.titles.match(item)
            misspelt += one is None and not isinstance(item, int)
            if misspelt > MISSPELT:
                raise InputError(f"more than {MISSPELT} titles are misspelt; use ids, keys or exact titles")
            found[item] = one or self.titles.tried(item)
        return [found[item] for item in items]


def close_matches(word: str, texts: Iterable[str], n: int, cutoff: float) -> list[str]:
    """The result of `difflib.get_close_matches`, in a hundredth of its time.

    A longest common subsequence is at least as long as difflib's matching blocks together, so rapidfuzz's
    similarity is never below difflib's: what it leaves out, difflib would have, too.
    """
    pool, rough = iter(texts), list[tuple[str, float, int]]()
    while part := list(islice(pool, SLICE)):
        scorer = Indel.normalized_similarity
        rough += process.extract(word, part, scorer=scorer, score_cutoff=max(cutoff - 1e-9, 0.0), limit=ROUGH)
    best = nlargest(ROUGH, rough, key=lambda one: one[1])
    return get_close_matches(word, [text for text, *_ in best], n, cutoff)
