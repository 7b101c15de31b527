"""What the items of a large catalogue are called, in a file that is mapped, not read.

A million keys and titles in lists and dictionaries take 0.6 GB and seconds to read. Here each column is one
block of UTF-8 with the place where every text ends, and the texts' hashes in order, in which a text is found
by bisection. Titles stand there three times: as written, folded, and bare (see `fold` and `bare`).
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.mapped import mapped_tensors

NAMES = "names.safetensors"

LARGE = 200_000
"""Number of items from which on an artefact has the file; lists and dictionaries answer faster."""

_BLOCK = 4096
_YEAR = re.compile(r"\s*\((\d{4})\)$")
_LEADING = re.compile(r"^(the|a|an) (?=.)")
_ARTICLE = re.compile(r"^(.*), (the|a|an|le|la|les|il|el|los|las|der|die|das)$")


_Kind = TypeVar("_Kind", bound="Column")


class Bare(NamedTuple):
    """A title without letter case, year and English article; other articles are moved to the front."""

    name: str
    year: str


def fold(text: str) -> str:
    """A text without letter case and with single spaces."""
    return " ".join(text.casefold().split())


def bare(text: str) -> Bare:
    """A title's name and year."""
    folded = fold(text)
    year = _YEAR.search(folded)
    name = folded[: year.start()] if year else folded
    article = _ARTICLE.match(name)
    name = f"{article[2]} {article[1]}" if article else name
    return Bare(_LEADING.sub("", name), year[1] if year else "")


class Column(Sequence[str]):
    """A text per item.

    Args:
        text: all of them in UTF-8, uint8 (bytes,).
        ends: where each ends, int64 (N,).
        hashes: of the texts, ascending, uint64 (N,).
        rows: whose they are, equal hashes in the order of the items, int32 (N,).
    """

    def __init__(
        self,
        text: NDArray[np.uint8],
        ends: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        rows: NDArray[np.int32],
    ) -> None:
        self._bytes = text
        self._text, self._ends, self._hashes, self._rows = text.data, ends.data, hashes.data, rows.data

    @staticmethod
    def parts(texts: Iterable[str]) -> dict[str, NDArray[np.generic]]:
        """The arrays of a column, by name."""
        coded = [text.encode() for text in texts]
        hashes = np.fromiter((_hash(text) for text in coded), np.uint64, len(coded))
        rows = hashes.argsort(kind="stable")
        return {
            "text": np.frombuffer(b"".join(coded), np.uint8),
            "ends": np.fromiter(map(len, coded), np.int64, len(coded)).cumsum(),
            "hashes": hashes[rows],
            "rows": rows.astype(np.int32),
        }

    def __len__(self) -> int:
        """N."""
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """The text of a row, or those of several."""
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return str(self._text[self._ends[row - 1] if row else 0 : self._ends[row]], "utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        """All texts, in order."""
        start = 0
        for end in self._ends:
            yield str(self._text[start:end], "utf-8", "replace")
            start = end

    def ids(self, text: str) -> list[int]:
        """The ids (from 1) of all items whose text this is, ascending."""
        wanted = _hash(text.encode("utf-8", "surrogatepass"))
        first, last = bisect_left(self._hashes, wanted), bisect_right(self._hashes, wanted)
        return [row + 1 for row in self._rows[first:last] if self[row] == text]

    def containing(self, text: str, count: int) -> list[int]:
        """The ids of the first `count` items whose text contains this one, ascending."""
        wanted, found, start = text.encode("utf-8", "surrogatepass"), list[int](), 0
        for row in range(0, len(self), _BLOCK):
            ends = self._ends[row : row + _BLOCK]
            block = bytes(self._text[start : ends[-1]])
            at = block.find(wanted)
            while at >= 0 and len(found) < count:
                here = bisect_right(ends, start + at)
                inside = start + at + len(wanted) <= ends[here]  # not over the end of a text
                found += [row + here + 1] if inside else []
                at = block.find(wanted, ends[here] - start if inside else at + 1)
            if len(found) == count:
                break
            start = ends[-1]
        return found

    def most(self, sign: str) -> int:
        """How often a text has an ASCII character, at most."""
        places = np.flatnonzero(self._bytes == ord(sign))
        rows = np.searchsorted(np.asarray(self._ends), places, "right")
        return int(np.unique(rows, return_counts=True)[1].max(initial=0))


class Titles(Column):
    """The titles as written.

    Attributes:
        folded: the titles, each folded.
        bare: their names.
    """

    folded: Column
    bare: Column


class Ids(Mapping[str, list[int]]):
    """Text -> the ids of the items that have it, ascending; of a column."""

    def __init__(self, column: Column) -> None:
        self._column = column

    def __getitem__(self, text: str) -> list[int]:
        """The ids."""
        if found := self._column.ids(text):
            return found
        raise KeyError(text)

    def __iter__(self) -> Iterator[str]:
        """The texts of all items, a repeated one as often as it occurs."""
        return iter(self._column)

    def __len__(self) -> int:
        """The number of items."""
        return len(self._column)


class First(Mapping[str, int]):
    """Text -> the first id of an item that has it; of a column."""

    def __init__(self, column: Column) -> None:
        self._all = Ids(column)

    def __getitem__(self, text: str) -> int:
        """The id."""
        return self._all[text][0]

    def __iter__(self) -> Iterator[str]:
        """The texts of all items, a repeated one as often as it occurs."""
        return iter(self._all)

    def __len__(self) -> int:
        """The number of items."""
        return len(self._all)


class Repeated(Container[str]):
    """The texts that several items of a column have."""

    def __init__(self, column: Column) -> None:
        self._column = column

    def __contains__(self, text: object) -> bool:
        """Whether several items have this text."""
        return isinstance(text, str) and len(self._column.ids(text)) > 1


def write_names(path: Path, catalogue: Catalogue) -> None:
    """Write the file of a catalogue's keys and titles."""
    from safetensors.numpy import save_file

    titles = catalogue.titles
    columns = {
        "keys": Column.parts(catalogue.keys),
        "titles": Column.parts(titles),
        "folded": Column.parts(map(fold, titles)),
        "bare": Column.parts(bare(title).name for title in titles),
    }
    tensors = {f"{name}.{part}": one for name, parts in columns.items() for part, one in parts.items()}
    with store.writing(path) as temporary:
        save_file(tensors, temporary)


def open_names(path: Path, size: int) -> Catalogue:
    """The keys and titles in a file of `write_names`, mapped.

    Raises:
        StoreError: it is damaged, or of another catalogue.
    """
    tensors, _ = mapped_tensors(path)

    def column(name: str, kind: type[_Kind]) -> _Kind:
        parts = [tensors.get(f"{name}.{part}") for part in ("text", "ends", "hashes", "rows")]
        if not _fit(parts, size):
            raise StoreError(f"{path}: {name}: not of {size} items, as artefact.json says; export again")
        return kind(*parts)  # type: ignore[arg-type]

    titles = column("titles", Titles)
    titles.folded, titles.bare = column("folded", Column), column("bare", Column)
    return Catalogue(column("keys", Column), titles)


def _fit(parts: Sequence[NDArray[np.generic] | None], size: int) -> bool:
    text, ends, hashes, rows = parts
    if text is None or ends is None or hashes is None or rows is None:
        return False
    kinds = (np.uint8, np.int64, np.uint64, np.int32)
    if [one.dtype for one in (text, ends, hashes, rows)] != list(kinds) or text.ndim != 1:
        return False
    if not ends.shape == hashes.shape == rows.shape == (size,):
        return False
    lengths = np.diff(ends, prepend=np.int64(0))
    return bool(lengths.min() >= 0 and ends[-1] == len(text) and rows.min() >= 0 and rows.max() < size)


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
