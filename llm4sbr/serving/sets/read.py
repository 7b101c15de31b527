"""Reads a file of sessions row by row: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from llm4sbr import store
from llm4sbr.errors import InputError
from llm4sbr.serving.answering import Session
from llm4sbr.serving.stream import LONGEST, json_of, session_of, text_of
from llm4sbr.system import installation

STANDARD = Path("-")
"""Stands for standard input or output, in JSON lines."""

FORMATS = (".jsonl", ".csv", ".parquet")

SESSION = "session"
"""Name of the column, or the key, with the session."""

ITEM = "item"
"""Name of the column that makes a file one of clicks: a row each, `SESSION` says which belong together."""

BLOCK = 4096
"""Rows read, answered and written at once."""


_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of it."""


class Row(NamedTuple):
    """A row of the file."""

    number: int
    """Counted from 1: of the line in JSON lines, else of the row of data."""
    session: Session | None
    error: str = ""
    """Why there is no session."""
    others: dict[str, Any] = {}
    """Its other columns, as far as they are asked for and there."""


class Cells(NamedTuple):
    """A row of a table as it stands there."""

    number: int
    given: Mapping[str, Any] | None
    error: str = ""
    """Why there are no cells."""


def format_of(path: Path) -> str:
    """One of `FORMATS`; `InputError` if the file's name has another ending."""
    ending = ".jsonl" if path == STANDARD else path.suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"{path}: its name ends with none of {', '.join(FORMATS)}")
    return ending


def columns_of(path: Path) -> dict[str, Any] | None:
    """The columns of a file and, in Parquet, their polars types; None for JSON lines, which have none.

    Raises:
        InputError: the file cannot be read, or has no column `session`; it holds texts or lists, but in a
            file of clicks.
    """
    kind = format_of(path)
    if kind == ".jsonl":
        return None
    if kind == ".parquet":
        found = _parquet_columns(path)
    else:
        with _opened(path) as stream:
            found = dict.fromkeys(_header(stream))
    if SESSION not in found:
        raise InputError(f"{path}: no column {SESSION!r}; it has {', '.join(map(repr, found))}"[:500])
    return found


def are_clicks(columns: Iterable[str]) -> bool:
    """Whether a file with these columns has a click per row."""
    return {SESSION, ITEM} <= set(columns)


def count(path: Path) -> int:
    """The number of rows, at most; 0 if it is not known before they are read."""
    if path == STANDARD:
        return 0
    if format_of(path) == ".parquet":
        polars = polars_of()
        return int(polars.scan_parquet(path).select(polars.len()).collect().item())
    with _opened(path) as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(2**20), b"")) + 1


def read(path: Path, others: Sequence[str] = ()) -> Iterator[list[Row]]:
    """The rows in blocks of `BLOCK`; a row without a usable session has its error.

    Args:
        path: the file; `STANDARD` reads JSON lines from standard input.
        others: names of further columns to keep.

    Raises:
        InputError: the file cannot be read.
    """
    rows = _lines(path, others) if format_of(path) == ".jsonl" else _table(path, others)
    while block := list(islice(rows, BLOCK)):
        yield block


def _lines(path: Path, others: Sequence[str]) -> Iterator[Row]:
    with _opened(path) as stream:
        for number, line in enumerate(_whole(stream), 1):
            if not line.strip():
                continue
            try:
                text = text_of(line)
                given = json_of(text, "{")
                if given is None:
                    yield Row(number, session_of(text))
                elif SESSION not in given:
                    yield Row(number, None, f"the object has no {SESSION!r}")
                else:
                    yield _row(number, given[SESSION], given, others)
            except InputError as error:
                yield Row(number, None, str(error))


def _table(path: Path, others: Sequence[str]) -> Iterator[Row]:
    columns = columns_of(path) or {}
    cells = _csv(path) if format_of(path) == ".csv" else _parquet(path, columns, others)
    return (_sessions if are_clicks(columns) else _rows)(cells, others)


def _whole(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines; of one that is too long only the beginning, which is still too long."""
    while line := stream.readline(LONGEST + 2):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(2**20)
        yield line


def _csv(path: Path) -> Iterator[Cells]:
    with _opened(path) as stream:
        yield from _cells(stream)


def _cells(stream: IO[bytes]) -> Iterator[Cells]:
    names = _header(stream)
    stream.seek(0)
    reader = csv.reader(_decoded(stream), delimiter=_separator(stream), strict=True)
    stream.seek(0)
    next(reader)
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Cells(number, None, f"not CSV: {error}")
            continue
        if not cells:
            number -= 1
        elif len(cells) != len(names):
            yield Cells(number, None, f"{len(cells)} cells, the header has {len(names)}")
        else:
            yield Cells(number, dict(zip(names, cells, strict=True)))


def _header(stream: IO[bytes]) -> list[str]:
    separator = _separator(stream)
    stream.seek(0)
    try:
        return next(csv.reader(_decoded(stream), delimiter=separator), [])
    except csv.Error as error:
        raise InputError(f"the header cannot be read: {error}") from None


def _separator(stream: IO[bytes]) -> str:
    stream.seek(0)
    first = stream.readline(LONGEST)
    return max(",;\t", key=lambda one: first.count(one.encode()))


def _decoded(stream: IO[bytes]) -> Iterator[str]:
    """Lines as text; what is not UTF-8 becomes lone surrogates, which `_row` refuses."""
    for number, line in enumerate(_whole(stream)):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape")


def _rows(table: Iterable[Cells], others: Sequence[str]) -> Iterator[Row]:
    """A session per row of the table."""
    for number, cells, error in table:
        yield Row(number, None, error) if cells is None else _row(number, cells[SESSION], cells, others)


def _sessions(table: Iterable[Cells], others: Sequence[str]) -> Iterator[Row]:
    """A session for all consecutive clicks with equal `SESSION`; other columns are the first's."""
    number, first, clicks = 0, None, list[str]()
    for at, cells, error in table:
        if cells is not None and cells[SESSION] in (None, ""):
            cells, error = None, f"the click has no {SESSION}"
        elif cells is not None and cells[ITEM] in (None, ""):
            cells, error = None, f"the click has no {ITEM}"
        if cells is None:
            yield Row(at, None, error)
            continue
        if first is not None and cells[SESSION] != first[SESSION]:
            yield _row(number, clicks, first, [SESSION, *others])
            first = None
        if first is None:
            number, first, clicks = at, cells, []
        clicks.append(str(cells[ITEM]))  # a number is a key here, as in the log
    if first is not None:
        yield _row(number, clicks, first, [SESSION, *others])


def _row(number: int, session: object, given: Mapping[str, Any], others: Sequence[str]) -> Row:
    kept = {name: given[name] for name in others if name in given}
    if any(_NOT_UTF8.search(_text(one)) for one in (session, *kept.values())):
        return Row(number, None, "not UTF-8")
    try:
        return Row(number, session_of(session), others=kept)
    except InputError as error:
        return Row(number, None, str(error), kept)


def _text(value: object) -> str:
    if isinstance(value, list):
        return "".join([one for one in value if isinstance(one, str)])
    return value if isinstance(value, str) else ""


def _parquet_columns(path: Path) -> dict[str, Any]:
    polars = polars_of()
    with _explained(path):
        found = dict(polars.scan_parquet(path).collect_schema())
    if are_clicks(found):
        kind = found[ITEM]
        if kind != polars.String and not kind.is_integer():
            raise InputError(f"{path}: {ITEM} is {kind}; expected texts or whole numbers, the items' keys")
        return found
    kind = found.get(SESSION)
    listed = isinstance(kind, polars.List) and (kind.inner == polars.String or kind.inner.is_integer())
    if kind is not None and kind != polars.String and not listed:
        raise InputError(f"{path}: {SESSION} is {kind}; expected texts, or lists of keys, titles or ids")
    return found


def _parquet(path: Path, columns: Iterable[str], others: Sequence[str]) -> Iterator[Cells]:
    polars = polars_of()
    needed = [SESSION, *([ITEM] if are_clicks(columns) else []), *others]
    scan = polars.scan_parquet(path).select(list(dict.fromkeys(needed)))
    for start in range(0, count(path), BLOCK):
        with _explained(path):
            table = scan.slice(start, BLOCK).collect()
        yield from (Cells(start + at, given) for at, given in enumerate(table.iter_rows(named=True), 1))


def polars_of() -> Any:
    """The module polars; `ModelUnavailableError` if it is not installed."""
    try:
        import polars
    except ModuleNotFoundError:
        raise installation.not_installed("polars, which reads and writes Parquet,", "parquet") from None
    return polars


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    polars = polars_of()
    try:
        yield
    except (OSError, polars.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: not a whole Parquet file: {reason}") from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path == STANDARD:
        if sys.stdin is None:
            raise InputError("--in -: standard input is closed")
        yield sys.stdin.buffer
        return
    with store.open_for_reading(path) as stream:
        yield stream


def content(rows: Sequence[Row]) -> bytes:
    """What a block's lists depend on, besides the model and the settings."""
    return json.dumps(rows, default=str).encode()
