"""Which items a list may have: lists of items, conditions on attributes, and named filters.

A choice becomes one float32 per item, 0 where it passes and minus infinity where it does not, which a model
adds to its scores before it takes the K best. What conditions allow is kept for the requests to come.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr import store
from llm4sbr.errors import InputError
from llm4sbr.serving import conditions
from llm4sbr.serving.attributes import Attributes, Texts, no_such
from llm4sbr.serving.comparing import compared
from llm4sbr.serving.conditions import Condition
from llm4sbr.serving.titles import TitleIndex

KEPT = 2**26
"""Bytes of what conditions allow that are kept."""

LOWEST = np.float32(-np.inf).view(np.int32)

SOON = 2**18
"""Items of a catalogue whose attributes are compared in a fraction of a millisecond."""

NAMED = 5
"""Items that a note names."""

NEAR = 10_000
"""Distinct values among which a similar one is looked for."""

Passing = NDArray[np.bool_]
Added = NDArray[np.float32]


class Choice(NamedTuple):
    """What a list is chosen from; by default the whole catalogue."""

    only: tuple[str | int, ...] | None = None
    """Keys, titles or catalogue ids (int) of the only items that may be in the list."""
    without: tuple[str | int, ...] = ()
    """Those of items that may not be in it."""
    where: tuple[Condition, ...] = ()
    """Conditions, of which all must hold."""

    @classmethod
    def of(
        cls,
        only: Sequence[str | int] | None = None,
        without: Sequence[str | int] = (),
        where: str | Sequence[str] = (),
    ) -> Choice | None:
        """The choice that a user asks for, None if it is the whole catalogue; `InputError` if it is none."""
        if only is None and not without and not where:
            return None
        given = None if only is None else items("only", only)
        return cls(given, items("without", without), conditions.parse(where))

    def own(self, given: Mapping[str, Any]) -> Choice:
        """The choice of one session, whose `only`, `without` and `where` take the place of these.

        Raises:
            InputError: they are none, or it has something else.
        """
        for name in given:
            if name not in self._fields:
                raise InputError(f"{name!r:.60}: no filter of a session; there are {', '.join(self._fields)}")
        told = Choice.of(**given) or Choice()
        return self._replace(**{name: getattr(told, name) for name in given})


class Allowed(NamedTuple):
    """The items that pass."""

    added: Added
    """float32 (1, N): 0 for an item that passes, else minus infinity."""
    passing: int
    """How many do."""
    notes: tuple[str, ...] = ()
    """What the user should know: unknown items, or why none pass."""


class Chooser:
    """What each of many sessions may have in its list.

    Args:
        filters: of the model.
        shared: for all sessions.
        each: `only`, `without` and `where` of every session, which take the place of the shared ones; None if
            no session has any.
        unknown: as for `Filters.allowed`.

    Raises:
        InputError: as `Filters.allowed`, for what is shared.
    """

    def __init__(
        self,
        filters: Filters,
        shared: Choice | None,
        each: Sequence[Mapping[str, Any]] | None,
        unknown: str,
    ) -> None:
        self.filters, self.unknown = filters, unknown
        self.shared, self.each = shared or Choice(), each
        self.allowed = None if shared is None else filters.allowed(shared, unknown=unknown)
        self.differs = any(each or ())
        """Whether a session has filters of its own."""

    def __call__(self, number: int) -> Allowed | None:
        """What session `number` may have, None for all items; `InputError` if its filters are invalid."""
        if not self.each or not self.each[number]:
            return self.allowed
        return self.filters.allowed(self.shared.own(self.each[number]), unknown=self.unknown)


class Filters:
    """Finds the items that pass.

    Args:
        titles: of the catalogue, by which items are recognised.
        attributes: of the catalogue, with the named filters.
        lacks: why the model cannot take filters, if it cannot.
    """

    def __init__(self, titles: TitleIndex, attributes: Attributes, *, lacks: str = "") -> None:
        self.titles = titles
        self.lacks = lacks
        self.size = titles.catalogue.size
        self.attributes = attributes
        self.named = dict(attributes.filters)
        self._kept: OrderedDict[tuple[Condition, ...], Allowed] = OrderedDict()
        self._lock = Lock()

    @property
    def fingerprint(self) -> str:
        """Changes with the named filters."""
        found = hashlib.sha256()
        for name, passing in sorted(self.named.items()):
            found.update(name.encode() + b"\0" + np.packbits(passing).tobytes())
        return found.hexdigest()

    def about(self) -> dict[str, dict[str, Any]]:
        """What can be asked: named filters with how many items pass, and attributes with their values."""
        named = {name: {"passing": int(passing.sum())} for name, passing in self.named.items()}
        columns = {name: column.about() for name, column in self.attributes.columns.items()}
        return {"filters": named, "attributes": columns}

    def quick(self, choice: Choice) -> bool:
        """Whether `allowed` takes hardly any time: what conditions allow is kept, or soon found."""
        slow = self.size > SOON or any(one.operator == "contains" for one in choice.where)
        return not slow or not choice.where or choice.where in self._kept

    def allowed(self, choice: Choice, *, unknown: str = "skip") -> Allowed:
        """The items that a choice leaves.

        Args:
            choice: what is asked for.
            unknown: as for sessions: `skip` leaves items of `only` and `without` out that nothing is called,
                `fail` refuses them.

        Raises:
            InputError: conditions name no attribute or filter, or compare what cannot be; the model takes
                no filters.
        """
        if self.lacks:
            raise InputError(self.lacks)
        base = self._where(choice.where)
        if choice.only is None and not choice.without:
            return base
        notes = list(base.notes)
        left = self._ids("without", choice.without, unknown, notes)
        if choice.only is None:
            added = base.added.copy()
            passing = base.passing - int(np.count_nonzero(added[0, left - 1] == 0))
        else:
            ids = self._ids("only", choice.only, unknown, notes)
            added = np.full_like(base.added, -np.inf)
            added[0, ids - 1] = base.added[0, ids - 1]
            gone = int(np.count_nonzero(added[0, left - 1] == 0))
            passing = int(np.count_nonzero(added[0, ids - 1] == 0)) - gone
        added[0, left - 1] = -np.inf
        if not passing and base.passing:
            notes.append("no item is left: none is in `only`, passes the conditions and is not in `without`")
        return Allowed(added, passing, tuple(notes))

    def replace(self, name: str, passing: Passing) -> None:
        """Give a named filter, known or new, other items, bool (N,)."""
        with self._lock:
            self.named = {**self.named, name: passing}
            self._kept.clear()

    def passing(self, keys: Collection[str]) -> tuple[Passing, int]:
        """Bool (N,), true at the items of these keys, and how many of the keys no item has."""
        found = [id for id in map(self.titles.id_of, keys) if id is not None]
        passing = np.zeros(self.size, np.bool_)
        passing[np.array(found, np.int64) - 1] = True
        return passing, len(keys) - len(found)

    def define(self, name: str, path: Path) -> int:
        """Give a named filter the items whose keys are in a file; how many of the keys no item has.

        Raises:
            InputError: the name is no name, or the file cannot be read.
        """
        passing, unknown = self.passing(keys_of(path))
        self.replace(check_name(name), passing)
        return unknown

    def _where(self, where: tuple[Condition, ...]) -> Allowed:
        with self._lock:
            found = self._kept.get(where)
            if found is not None:
                self._kept.move_to_end(where)
                return found
            named = self.named
        passing = np.ones(self.size, np.bool_)
        for one in where:
            passing &= self._passing(one)
        count = int(np.count_nonzero(passing))
        notes = () if count else (self._none_passes(where),)
        found = Allowed(added_of(passing), count, notes)
        with self._lock:
            if named is self.named:  # else a filter was replaced meanwhile
                self._kept[where] = found
                while len(self._kept) > max(KEPT // found.added.nbytes, 1):
                    self._kept.popitem(last=False)
        return found

    def _passing(self, one: Condition) -> Passing:
        """Bool (N,), true where a condition holds."""
        if not one.operator:
            if one.name not in self.named:
                known = one.name in self.attributes.columns
                hint = "; an attribute is compared, as in 'price <= 30'" if known else ""
                raise InputError(f"where: {no_such('filter', one.name, self.named)}{hint}")
            found = self.named[one.name]
        else:
            column = self.attributes.columns.get(one.name)
            if column is None:
                raise InputError(f"where: {no_such('attribute', one.name, self.attributes.columns)}")
            found = compared(column, one)
        return ~found if one.negated else found

    def _ids(
        self, what: str, given: tuple[str | int, ...], unknown: str, notes: list[str]
    ) -> NDArray[np.int64]:
        """Catalogue ids of items, each once; what nothing is called is noted, or refused."""
        ids = {item for item in given if isinstance(item, int)}
        if ids and not (min(ids) >= 1 and max(ids) <= self.size):
            self.titles.resolve(min(ids) if min(ids) < 1 else max(ids))  # says which ids there are
        missing = []
        for item in given:
            if isinstance(item, str):
                id = self.titles.id_of(item)
                if id is None:
                    missing.append(item)
                else:
                    ids.add(id)
        if missing:
            more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
            text = f"{what}: no item is called {', '.join(f'{one!r:.60}' for one in missing[:NAMED])}{more}"
            if unknown == "fail":
                raise InputError(text)
            notes.append(text)
        return np.fromiter(ids, np.int64, len(ids))

    def _none_passes(self, where: tuple[Condition, ...]) -> str:
        """Why no item passes, with a value that may have been meant."""
        text = f"no item passes {'; '.join(map(str, where))}"
        for one in where:
            column = self.attributes.columns.get(one.name)
            if isinstance(column, Texts) and one.operator in ("=", "in") and len(column.values) <= NEAR:
                for value in one.values:
                    near = get_close_matches(value, column.values, 1, 0.7)
                    if value not in column.places and near:
                        return f"{text[:400]}; did you mean {near[0]!r}?"
        return text[:500]


def added_of(passing: Passing) -> Added:
    """Float32 (1, N) from bool (N,): 0 where true, else minus infinity, whose bits are those of `LOWEST`.

    A tenth of the time of `numpy.where`, which a new condition would spend most of its own in.
    """
    bits = passing.astype(np.int32)
    bits -= 1
    bits &= LOWEST
    return bits.view(np.float32)[None]


def items(name: str, given: Any) -> tuple[str | int, ...]:
    """A list of items from a list, or from a text with commas between keys.

    Raises:
        InputError: it is something else.
    """
    if isinstance(given, str):
        given = [one.strip() for one in given.split(",") if one.strip()]
    if not isinstance(given, Sequence) or not set(map(type, given)) <= {str, int}:
        raise InputError(f"{name}: expected a list of keys (texts) and catalogue ids (whole numbers)")
    return tuple(given)


def check_name(name: str) -> str:
    """The name of a filter; `InputError` if it is none."""
    if not name.isidentifier():
        raise InputError(f"filter {name!r:.60}: a name has letters, digits and _, such as in_stock")
    return name


def keys_of(path: Path) -> list[str]:
    """The keys in a file, one per line; `InputError` if it cannot be read or is not UTF-8."""
    with store.open_for_reading(path) as stream:
        try:
            text = stream.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not UTF-8 from byte {error.start} on; expected a key per line"
            ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]
