"""Answers that somebody got elsewhere, read from a table: `--llm recorded:answers.csv`.

A row holds a `text` and says what it is about, by one of three columns:

    prefix    the clicks before the target, keys oldest first: a list, or its JSON text (`["B1", "B2"]`)
    session   the id of a session in the data; the text then serves every prefix of that session (one that
              several sessions begin with counts as the first one's)
    item      one item's key; the text then serves every prefix that ends with it

A prefix's own row comes before its session's, and that before its last item's. `perspective` names the
perspective that a row answers; without this column, or where it is empty, a row serves all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from llm4sbr.data.readers.columns import ROW
from llm4sbr.data.readers.delimited import read_csv
from llm4sbr.errors import DataError
from llm4sbr.protocols import Item, Perspective
from llm4sbr.store import file_sha256

PLACES = ("prefix", "session", "item")
"""Columns that say what a text is about, the most specific first."""
COLUMNS = {*PLACES, "perspective", "text"}

Key = tuple[str, str, str]
"""Perspective or "", column, and the key in it."""


class Matched(NamedTuple):
    """Which samples the table answers."""

    rows: list[int]
    """Samples with a text from at least one perspective, ascending."""
    unused: int
    """Rows of the table that fit no sample."""
    example: str = ""
    """What the first of these is about."""


class Recorded:
    """The texts of a table as an LLM's answers.

    Args:
        model: the table: `.csv`, `.csv.gz`, `.parquet` or `.jsonl`.

    Raises:
        DataError: the file cannot be read, has other columns, or answers one thing twice.
    """

    def __init__(self, model: str) -> None:
        self.path = Path(model).expanduser()
        self.texts = dict(_texts(self.path))
        self.fingerprint = f"recorded, sha256 {file_sha256(self.path)[:16]}"
        self._sessions: dict[str, str] = {}  # JSON text of a prefix -> its session
        self._perspectives: dict[str, Perspective] = {}

    def match(
        self,
        prefixes: Sequence[Sequence[Item]],
        session_of: Callable[[int], str],
        perspectives: Mapping[str, Perspective],
    ) -> Matched:
        """Find the samples that the table answers.

        Args:
            prefixes: M prefixes.
            session_of: id of the session that sample m comes from.
            perspectives: those of the run, by name.

        Raises:
            DataError: a perspective that the run does not have, or not one row fits a sample.
        """
        names = list(perspectives)
        self._perspectives = dict(perspectives)
        odd = sorted({name for name, _, _ in self.texts} - {"", *names})
        if odd:
            raise DataError(
                f"{self.path}: perspective {odd[0]!r} is not one of this run's ({', '.join(names)}); "
                f"choose it with --perspective {','.join([*names, odd[0]])}, or take its rows out"
            )
        by_session = any(column == "session" for _, column, _ in self.texts)
        rows, used = [], set()
        for row in range(len(prefixes)):
            items = prefixes[row]
            if by_session:
                self._sessions.setdefault(_prefix(items), session_of(row))
            found = {key for name in names if (key := self._key(items, name))}
            used |= found
            if found:
                rows.append(row)
        if not rows:
            raise DataError(
                f"{self.path}: no text in it is about a sample of this run ({self._about(set())})"
            )
        return Matched(rows, len(self.texts) - len(used), self._about(used))

    def _about(self, used: set[Key]) -> str:
        """What the first text besides `used` is about: `the first is about item 'B1'`."""
        unused = next((key for key in self.texts if key not in used), None)
        return f"the first is about {unused[1]} {unused[2]!r}" if unused else "it has none"

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """One text per session, "" where the table has none; `match` comes first."""
        name = next(name for name, one in self._perspectives.items() if one is perspective)
        keys = (self._key(items, name) for items in sessions)
        return [self.texts[key] if key else "" for key in keys]

    def _key(self, items: Sequence[Item], name: str) -> Key | None:
        prefix = _prefix(items)
        places = (prefix, self._sessions.get(prefix), items[-1].key)
        for column, place in zip(PLACES, places, strict=True):
            for key in ((name, column, place), ("", column, place)) if place is not None else ():
                if key in self.texts:
                    return key
        return None


def _prefix(items: Sequence[Item]) -> str:
    return json.dumps([item.key for item in items])


def _texts(path: Path) -> Iterator[tuple[Key, str]]:
    """What every row is about, and its text; raises `DataError` where a row cannot be used."""
    table = _table(path)
    seen: dict[Key, int] = {}
    for values in table.iter_rows(named=True):
        row, text = values[ROW], str(values["text"] or "").strip()
        given = {name: values[name] for name in PLACES if values.get(name) not in (None, "", [])}
        if len(given) != 1:
            said = " and ".join(given) or "none"
            raise DataError(f"{path}:{row}: says by {said} what it is about; give one of {', '.join(PLACES)}")
        [(column, place)] = given.items()
        key = (str(values.get("perspective") or ""), column, _place(path, row, column, place))
        if key in seen:
            raise DataError(f"{path}:{row}: answers the same as row {seen[key]}; keep one of the two")
        seen[key] = row
        if text:
            yield key, text


def _table(path: Path) -> pl.DataFrame:
    """The file's columns and its row numbers."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        table, rejected = read_csv(path)
        if rejected:
            raise DataError(rejected[0])
    elif name.endswith((".parquet", ".jsonl")):
        read = pl.read_parquet if name.endswith(".parquet") else pl.read_ndjson
        try:
            table = read(path).with_row_index(ROW, offset=1)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    else:
        raise DataError(f"{path}: recorded answers come as .csv, .csv.gz, .parquet or .jsonl")
    columns = set(table.columns) - {ROW}
    if "text" not in columns or not columns & set(PLACES) or columns - COLUMNS:
        raise DataError(
            f"{path}: its columns are {', '.join(sorted(columns))}; recorded answers have text, one or more "
            f"of {', '.join(PLACES)}, and if wanted perspective"
        )
    return table


def _place(path: Path, row: int, column: str, place: object) -> str:
    if column != "prefix":
        return str(place)
    if isinstance(place, str):
        try:
            place = json.loads(place)
        except ValueError:
            place = None
    if not isinstance(place, list) or not all(isinstance(key, str | int) for key in place):
        raise DataError(f'{path}:{row}: prefix: expected a list of item keys, such as ["B001", "B002"]')
    return json.dumps([str(key) for key in place])
