"""Named filters that change while the server runs, by a request or by a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llm4sbr.errors import Llm4sbrError
from llm4sbr.serving.attributes import no_such
from llm4sbr.serving.filters import Filters, check_name, keys_of
from llm4sbr.serving.server.beside import beside
from llm4sbr.serving.server.http import Refusal
from llm4sbr.serving.server.logs import log, say

FIELDS = ("keys", "add", "remove")
"""What a request may hold: all keys, or some to add and to remove."""

Stamp = tuple[int, int, int]


class NamedFilters:
    """The keys of what passes replaced filters, for the models that are served and for those to come.

    Args:
        files: name -> file with a key per line, read now and whenever it changes.

    Raises:
        InputError: a name is none, or a file is not UTF-8.
        StoreError: a file cannot be read.
    """

    def __init__(self, files: Mapping[str, Path] | None = None) -> None:
        self.files = dict(files or {})
        self.version = 0
        """Grows with every change."""
        self._stamps = {name: stamp(path) for name, path in self.files.items()}
        self._keys: dict[str, frozenset[str]] = {
            check_name(name): frozenset(keys_of(path)) for name, path in self.files.items()
        }
        self._lock = asyncio.Lock()

    def apply(self, filters: Filters) -> int:
        """Replace the filters of a model, and return the version that they now have."""
        version = self.version
        for name, keys in self._keys.items():
            filters.replace(name, filters.passing(keys)[0])
        return version

    async def change(
        self, name: str, given: Mapping[str, Any], models: Mapping[str, Filters]
    ) -> dict[str, dict[str, int]]:
        """Replace a filter as a request says.

        Args:
            name: of the filter.
            given: `{"keys": [...]}`, or `{"add": [...], "remove": [...]}`.
            models: the served models' filters by the model's name.

        Returns:
            For each model, how many items pass now, and how many of the keys given are `unknown`.

        Raises:
            Refusal: 400 the request is none, 404 no model has such a filter.
        """
        there = {known for one in models.values() for known in one.named}
        if name not in there:
            raise Refusal(404, str(no_such("filter", name, dict.fromkeys(sorted(there)))))
        parts = {field: _keys(field, given[field]) for field in FIELDS if field in given}
        if given.keys() - set(FIELDS) or not parts or ("keys" in parts and len(parts) > 1):
            raise Refusal(400, 'expected {"keys": [...]}, or {"add": [...], "remove": [...]}')
        async with self._lock:

            def changed() -> frozenset[str]:
                if "keys" in parts:
                    return parts["keys"]
                known = self._keys.get(name)
                if known is None:
                    known = frozenset().union(*(_passing(one, name) for one in models.values()))
                return (known | parts.get("add", frozenset())) - parts.get("remove", frozenset())

            keys = await beside(changed)
            await self._replace(name, keys, models.values())
            mentioned = frozenset().union(*parts.values())
            return {
                model: {
                    "passing": int(one.named[name].sum()),
                    "unknown": sum(one.titles.id_of(key) is None for key in mentioned),
                }
                for model, one in models.items()
            }

    async def watch(self, models: Callable[[], Collection[Filters]], seconds: float) -> None:
        """Read every file again once it has stopped changing; runs until cancelled.

        One that cannot be read is logged, and its filter stays as it was.
        """
        last = dict(self._stamps)
        while self.files and seconds:
            await asyncio.sleep(seconds)
            for name, path in self.files.items():
                now = stamp(path)
                settled, last[name] = now == last[name], now
                if settled and now is not None and now != self._stamps[name]:
                    self._stamps[name] = now
                    await self._read(name, path, models())

    async def _read(self, name: str, path: Path, models: Collection[Filters]) -> None:
        try:
            keys = frozenset(await beside(partial(keys_of, path)))
        except Llm4sbrError as error:
            log.error("filter not replaced", extra={"fields": {"filter": name, "error": str(error)}})
            return
        async with self._lock:
            await self._replace(name, keys, models)

    async def _replace(self, name: str, keys: frozenset[str], models: Iterable[Filters]) -> None:
        self._keys[name] = keys
        self.version += 1
        for one in models:
            passing, _ = await beside(partial(one.passing, keys))
            one.replace(name, passing)
        say("filter replaced", filter=name, keys=len(keys))


def stamp(path: Path) -> Stamp | None:
    """Changes whenever the file changes; None if there is none."""
    try:
        found = path.stat()
    except OSError:  # it is being replaced
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _keys(field: str, given: object) -> frozenset[str]:
    if not isinstance(given, list) or not all(type(one) is str for one in given):
        raise Refusal(400, f"{field}: expected a list of keys")
    return frozenset(given)


def _passing(filters: Filters, name: str) -> frozenset[str]:
    """The keys of the items that pass a model's filter."""
    passing = filters.named.get(name)
    rows = [] if passing is None else np.flatnonzero(passing).tolist()
    return frozenset(filters.titles.catalogue.keys[row] for row in rows)
