"""Reads files with one JSON value per line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from llm4sbr.data.readers import files
from llm4sbr.data.readers.columns import ROW
from llm4sbr.errors import DataError

Parse = Callable[[str], Any]


def read(
    path: Path, rejected: list[str], *, parse: Parse = json.loads
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number and object of every line; messages about other lines are added to `rejected`.

    Raises:
        DataError: the file is missing, empty, truncated, not UTF-8, or has no readable line.
    """
    row = good = 0
    try:
        for row, line in enumerate(files.each_line(path), start=1):
            value = _value(line, path, row, rejected, parse)
            if value is not None:
                good += 1
                yield row, value
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(
            f"{path}:{row + 1}: the gzip file is truncated or damaged here; get a whole copy"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if not good:
        first = f": {rejected[0]}" if rejected else ""
        raise DataError(f"{path}: {'no line can be read' if row else 'the file is empty'}{first}")


def _value(line: bytes, path: Path, row: int, rejected: list[str], parse: Parse) -> dict[str, Any] | None:
    try:
        text = line.decode("utf-8-sig" if row == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        raise DataError(f"{path}:{row}: the text is not utf-8; convert the file to UTF-8") from None
    if not text:
        return None
    try:
        value = parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        rejected.append(f"{path}:{row}: not a JSON object: {text[:40]}")
        return None
    if "\\ud" in text.lower():  # a lone surrogate is valid JSON but not valid text; it becomes "?"
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    if not isinstance(value, dict):
        rejected.append(f"{path}:{row}: not a JSON object: {text[:40]}")
        return None
    return value


FIRST = 100
"""Objects that say which columns a file has."""


def header(path: Path) -> list[str]:
    """The names in the first objects of a file."""
    return list(dict.fromkeys(name for _, one in islice(read(path, []), FIRST) for name in one))


def table(path: Path, wanted: Sequence[str] | None, rejected: list[str]) -> pl.DataFrame:
    """The objects as rows of texts, and `ROW`: the columns in `wanted`, or all."""
    rows, found = list[int](), dict[str, list[str | None]]()
    for row, value in read(path, rejected):
        for name in value if wanted is None else wanted:
            found.setdefault(name, [None] * len(rows))
        rows.append(row)
        for name, column in found.items():
            column.append(text(value.get(name)))
    return pl.DataFrame({ROW: rows, **found}, schema={ROW: pl.Int64, **dict.fromkeys(found, pl.String)})


def text(value: Any) -> str | None:
    """A value as a table has it; a list is its texts, separated by spaces."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return None if value is None else str(value)
