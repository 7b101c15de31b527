"""Resolves what a user typed (ids, keys, titles, misspelt titles) to items of the catalogue."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, NamedTuple

from llm4sbr.errors import InputError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.names import Column, First, Ids, Repeated, Titles, bare, fold

How = Literal["id", "key", "title", "letter case", "year or article", "spelling"]
"""How a text was recognised; the last three name the difference."""

Matches = Callable[[str, Any, int, float], list[str]]
"""Function of a word, candidates, maximum number and minimum similarity, like `difflib.get_close_matches`."""

CLOSE = 0.85
"""Minimum similarity (`difflib`, 0 to 1) for a misspelt title to be recognised."""

_PIECE = re.compile(r'\s*"([^"]*)"\s*(?:,|$)|([^,]*)(?:,|$)')
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Resolved:
    """An item of a session, and the text it was recognised from."""

    text: str
    id: int
    key: str
    title: str
    how: How


class UnknownItem(InputError):
    """No item has this key or title."""


class Understood(NamedTuple):
    """A session as it was recognised."""

    items: list[Resolved]
    """Oldest first; none if nothing in the session is known."""
    left_out: list[str]
    """Keys or titles that no item has, such as those of items that are newer than the model."""
    unknown: UnknownItem | None = None
    """Why there are no items."""

    @classmethod
    def of(
        cls, found: Sequence[Resolved | UnknownItem], given: Sequence[str | int], unknown: str
    ) -> Understood:
        """The items found; `UnknownItem` if one is missing and `unknown` is `fail`."""
        errors = [one for one in found if isinstance(one, UnknownItem)]
        if errors and unknown == "fail":
            raise errors[0]
        left_out = [str(text) for text, one in zip(given, found, strict=True) if isinstance(one, UnknownItem)]
        known = [one for one in found if isinstance(one, Resolved)]
        return cls(known, left_out, None if known else errors[0])


class TitleIndex:
    """The catalogue's titles and keys, prepared for searching on first use.

    Args:
        catalogue: the items.
        matches: finds the closest texts; `difflib.get_close_matches`, or a faster one that agrees with it.
    """

    def __init__(self, catalogue: Catalogue, *, matches: Matches = get_close_matches) -> None:
        self.catalogue = catalogue
        self._matches: Matches | None = matches
        self._keys = _first(catalogue.keys)
        self._titles = _first(catalogue.titles)

    @cached_property
    def commas(self) -> int:
        """Maximum number of commas in a title."""
        return _most(",", self.catalogue.titles)

    @cached_property
    def bars(self) -> int:
        """Maximum number of bars in a title."""
        return _most("|", self.catalogue.titles)

    @cached_property
    def repeated(self) -> Container[str]:
        """Titles that several items have."""
        if isinstance(self.catalogue.titles, Column):
            return Repeated(self.catalogue.titles)
        counts = Counter(self.catalogue.titles)
        return frozenset(title for title, count in counts.items() if count > 1)

    @cached_property
    def _folded(self) -> Mapping[str, int]:
        titles = self.catalogue.titles
        if isinstance(titles, Titles):
            return First(titles.folded)
        return _first([fold(title) for title in self.catalogue.titles])

    @cached_property
    def _names(self) -> Mapping[str, int | list[int]]:
        """The ids by name; a single one without a list, which would be most of the memory."""
        if isinstance(self.catalogue.titles, Titles):
            return Ids(self.catalogue.titles.bare)
        names: dict[str, int | list[int]] = {}
        for id, title in enumerate(self.catalogue.titles, 1):
            name = bare(title).name
            known = names.setdefault(name, id)
            if isinstance(known, list):
                known.append(id)
            elif known != id:
                names[name] = [known, id]
        return names

    def as_written(self) -> TitleIndex:
        """The same without the search for misspelt titles, which compares each with the whole catalogue."""
        found = copy(self)
        found._matches = None
        return found

    def prepare(self) -> None:
        """Prepare the search for misspelt titles now, instead of at its first use."""
        self._folded, self._names  # noqa: B018 - computed once, then kept

    def id_of(self, text: str) -> int | None:
        """The catalogue id of the item with exactly this key or title."""
        return self._keys.get(text) or self._titles.get(text)

    def exact(self, text: str) -> Resolved | None:
        """The item with exactly this key or title."""
        if id := self._keys.get(text):
            return self._resolved(text, id, "key")
        return self._resolved(text, id, "title") if (id := self._titles.get(text)) else None

    def resolve(self, item: str | int) -> Resolved:
        """The item for a catalogue id (int), or for a key or title (str), possibly misspelt.

        Raises:
            UnknownItem: nothing is called so; the message has the nearest titles.
            InputError: several items are called so, or there is no such catalogue id.
        """
        if not isinstance(item, str | int):
            raise InputError(f"{item!r}: an item is a title, a key, or a catalogue id")
        if isinstance(item, int):
            if not 1 <= item <= self.catalogue.size:
                hint = f"; as a key it is written as a text, {str(item)!r}" if str(item) in self._keys else ""
                raise InputError(
                    f"no item has the catalogue id {item}; ids are 1 to {self.catalogue.size}{hint}"
                )
            return self._resolved(str(item), item, "id")
        found = self.match(item) or self.close(item)
        if found is None:
            near = "; ".join(repr(title) for title in self._near(item))
            hint = f"; the nearest titles are {near}" if near else ""
            raise UnknownItem(f"no item is called {item!r}{hint}")
        return found

    def tried(self, item: str | int) -> Resolved | UnknownItem:
        """The result of `resolve`, with the error as a value if nothing is called so."""
        try:
            return self.resolve(item)
        except UnknownItem as error:
            return error

    def match(self, text: str) -> Resolved | None:
        """The item with this key or title; letter case and a missing year or article are ignored.

        Raises:
            InputError: without its year the title is that of several items.
        """
        text = text.strip()
        found = self.exact(text)
        if found:
            return found
        folded = self._folded.get(fold(text))
        if folded:
            return self._resolved(text, folded, "letter case")
        return self._one(text, _listed(self._names.get(bare(text).name, [])), "year or article")

    def close(self, text: str) -> Resolved | None:
        """The item whose title differs only in spelling; numbers must be equal.

        Raises:
            InputError: several items have that title, apart from the year.
        """
        if self._matches is None:
            return None
        name = bare(text).name
        for near in self._matches(name, self._names, 3, CLOSE):
            if _NUMBER.findall(near) == _NUMBER.findall(name):
                found = self._one(text.strip(), _listed(self._names[near]), "spelling")
                if found:
                    return found
        return None

    def _one(self, text: str, ids: list[int], how: How) -> Resolved | None:
        """The only item of `ids` whose year does not contradict the text's."""
        year, titles = bare(text).year, self.catalogue.titles
        fitting = [id for id in ids if not year or bare(titles[id - 1]).year in ("", year)]
        names = list(dict.fromkeys(titles[id - 1] for id in fitting))
        if len(names) > 1:
            raise InputError(f"{text!r} could be {' or '.join(map(repr, names[:4]))}; give the whole title")
        return self._resolved(text, fitting[0], how) if fitting else None

    def _near(self, text: str) -> list[str]:
        if self._matches is None:
            return []
        folded = fold(text)
        inside = [title for title in self._folded if folded and folded in title][:3]
        near = dict.fromkeys([*inside, *self._matches(folded, self._folded, 3, 0.0)])
        return [self.catalogue.titles[self._folded[title] - 1] for title in list(near)[:3]]

    def _resolved(self, text: str, id: int, how: How) -> Resolved:
        return Resolved(text, id, self.catalogue.keys[id - 1], self.catalogue.titles[id - 1], how)


def parse_session(text: str, titles: TitleIndex) -> list[str]:
    """The titles or keys in one text, oldest first.

    Lines separate for certain, and quotation marks hold a title together. Bars and commas separate, too, but
    also occur in titles: pieces that joined together are a title count as one.

    Raises:
        InputError: nothing is in the text, or a title without its year is that of several items.
    """
    found = [
        one.strip()
        for line in text.split("\n")
        for part in _by_bars(line, titles)
        for one in ([part] if titles.exact(part) else _by_commas(part, titles))
    ]
    found = [one for one in found if one]
    if not found:
        raise InputError("the session is empty; give at least one title or key")
    return found


def resolve_session(
    session: str | Sequence[str | int], titles: TitleIndex, *, unknown: str = "skip"
) -> Understood:
    """The items of a session, oldest first: keys, titles or catalogue ids (int), or one text of them.

    Args:
        session: what a user gave.
        titles: of the catalogue.
        unknown: `skip` leaves out what no item is called; `fail` refuses it.

    Raises:
        InputError: an empty session, an ambiguous title, or an unknown one that is not left out.
    """
    given = parse_session(session, titles) if isinstance(session, str) else session
    if not given:
        raise InputError("the session is empty; give at least one title or key")
    return Understood.of([titles.tried(item) for item in given], given, unknown)


def _by_bars(line: str, titles: TitleIndex) -> list[str]:
    """The parts of a line between bars; those that are a title together, or in quotation marks, are one."""
    pieces, found, at = line.split("|"), [], 0
    while at < len(pieces):
        longest = min(titles.bars + 1, len(pieces) - at)
        joined = ("|".join(pieces[at : at + length]).strip() for length in range(longest, 1, -1))
        whole = next((one for one in joined if titles.exact(one)), None) or _unquoted(pieces, at)
        found.append(whole)
        at += whole.count("|") + 1
    return found


def _unquoted(pieces: Sequence[str], at: int) -> str:
    """The piece at a place, with those after it until its quotation marks are closed, if they are."""
    quotes = 0
    for end in range(at, len(pieces)):
        quotes += pieces[end].count('"')
        if quotes % 2 == 0:
            return "|".join(pieces[at : end + 1])
    return pieces[at]


def _by_commas(text: str, titles: TitleIndex) -> list[str]:
    pieces = [(m[2] if m[1] is None else m[1], m[1] is not None) for m in _PIECE.finditer(text) if m[0]]
    found, at = [], 0
    while at < len(pieces):
        piece, quoted = pieces[at]
        length = 1
        if piece.strip() and not quoted:
            end = next((i for i in range(at, len(pieces)) if pieces[i][1]), len(pieces))
            end = min(end, at + titles.commas + 1)
            piece, length = _longest([part for part, _ in pieces[at:end]], titles)
        found.append(piece)
        at += length
    return found


def _longest(pieces: list[str], titles: TitleIndex) -> tuple[str, int]:
    """The longest sequence of first pieces that is a title, correctly spelt if possible; else the first."""
    for look in (titles.match, titles.close):
        for length in range(len(pieces), 0, -1):
            joined = ",".join(pieces[:length]).strip()
            if joined and look(joined):
                return joined, length
    return pieces[0], 1


def _listed(ids: int | list[int]) -> list[int]:
    return [ids] if isinstance(ids, int) else ids


def _most(sign: str, texts: Sequence[str]) -> int:
    if isinstance(texts, Column):
        return texts.most(sign)
    return max((text.count(sign) for text in texts), default=0)


def _first(texts: Sequence[str]) -> Mapping[str, int]:
    """Text -> the first id with that text."""
    if isinstance(texts, Column):
        return First(texts)
    return dict(zip(reversed(texts), range(len(texts), 0, -1), strict=True))
