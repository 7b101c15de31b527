"""Writes the lists of a set: part by part, then as one file."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm4sbr import store
from llm4sbr.serving.sets.fields import ATTRIBUTES, FIELDS, ROW
from llm4sbr.serving.sets.read import polars_of

Records = Sequence[Mapping[str, Any]]

_ENCODED = json.JSONEncoder(ensure_ascii=False, default=str).encode


def as_lines(records: Records) -> bytes:
    """Lines of JSON."""
    return "".join([_ENCODED(one) + "\n" for one in records]).encode()


class Writer:
    """Writes parts of a file, and the file from its parts.

    Args:
        kind: one of `read.FORMATS`.
        fields: names of the columns.
        types: polars types of those that come from a Parquet file of sessions.
    """

    def __init__(self, kind: str, fields: Sequence[str], types: Mapping[str, Any]) -> None:
        self.kind = kind
        self.fields = fields
        self.types = types
        if kind == ".parquet":
            polars_of()  # said now, not after the work

    def part(self, path: Path, records: Records) -> None:
        """Write a part, complete or not at all."""
        if self.kind == ".parquet":
            store.write_table(path, self._table(records))
            return
        with store.writing(path) as temporary:
            temporary.write_bytes(as_lines(records) if self.kind == ".jsonl" else self._cells(records))

    def whole(self, path: Path, parts: Sequence[Path]) -> None:
        """Write the file from its parts, complete or not at all."""
        if self.kind == ".parquet":
            store.write_table_parts(path, self._schema(), (store.read_table(one) for one in parts))
            return
        with store.writing(path) as temporary, temporary.open("wb") as stream:
            if self.kind == ".csv":
                stream.write(_csv([self.fields]))
            for one in parts:
                with store.open_for_reading(one) as part:
                    shutil.copyfileobj(part, stream)

    def _cells(self, records: Records) -> bytes:
        return _csv([_cell(one[name]) for name in self.fields] for one in records)

    def _table(self, records: Records) -> Any:
        polars = polars_of()
        columns = {
            name: polars.Series(name, [self._fitted(name, one[name]) for one in records], kind)
            for name, kind in self._schema().items()
        }
        return polars.DataFrame(columns)

    def _schema(self) -> dict[str, Any]:
        polars = polars_of()
        known: dict[str, Any] = dict.fromkeys(FIELDS, polars.List(polars.String))
        known |= {"id": polars.List(polars.Int64), "score": polars.List(polars.Float64), ROW: polars.Int64}
        known["passing"] = polars.Int64
        return {name: known.get(name) or self.types.get(name) or polars.String for name in self.fields}

    def _fitted(self, name: str, value: Any) -> Any:
        """A value as its column holds it: JSON's own kinds become text, if they are of no Parquet file."""
        if name == ATTRIBUTES and value is not None:
            return [_cell(one) for one in value]
        text = name not in FIELDS and name != ROW and name not in self.types
        return _cell(value) if text and value is not None else value


def _csv(rows: Sequence[Sequence[Any]] | Iterator[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """A value as one text; lists are written as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
