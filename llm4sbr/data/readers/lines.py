"""Reads files with one JSON value per line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm4sbr.data.readers import files
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
