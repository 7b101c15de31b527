"""Readers `csv` and `parquet`: a folder with a table of interactions and a table of items."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from llm4sbr.data import columns, files
from llm4sbr.data.columns import Names
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

_CLICKS = "user_id or session_id, item_id, timestamp or order"
_ITEMS = "item_id, title, any attributes"

Load = Callable[[Path, list[str] | None], pl.DataFrame]
"""Reads some columns of a file (None: all) and the column `row`."""


class Csv:
    """Delimited text, gzip or not.

    Args:
        path: a folder with `interactions.csv[.gz]` and `items.csv[.gz]`, or the interactions file itself.
        interactions, items: the two files, where they have other names.
        user, session, item, time, order, title: columns with names of their own; common names are known.
        attributes: columns of the items table to keep; by default all.
        separator: one character between fields.
        encoding: of the text, where it is not UTF-8.

    A timestamp is seconds since 1970 (milli-, micro- and nanoseconds are told by their size) or an ISO
    8601 date. A row that cannot be read is rejected and counted.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        interactions: Path | None = None,
        items: Path | None = None,
        user: str | None = None,
        session: str | None = None,
        item: str | None = None,
        time: str | None = None,
        order: str | None = None,
        title: str | None = None,
        attributes: Sequence[str] | None = None,
        separator: str = ",",
        encoding: str | None = None,
    ) -> None:
        self.paths = _paths(path, interactions, items, (".csv", ".csv.gz"), "csv")
        self.names = Names(user, session, item, time, order, title, attributes)
        self.separator = separator
        self.encoding = encoding

    def read(self) -> RawData:
        """Both tables; `DataError` with file, row and field on what cannot be used."""
        rejected: list[str] = []

        def load(path: Path, wanted: list[str] | None) -> pl.DataFrame:
            table, bad = read_csv(path, wanted, separator=self.separator, encoding=self.encoding)
            rejected.extend(bad)
            return table

        raw = _read(self.paths, load, self._header, self.names)
        return raw._replace(rejected=rejected + raw.rejected)

    def _header(self, path: Path) -> list[str]:
        return header(path, separator=self.separator, encoding=self.encoding)


class Parquet:
    """Parquet tables; options as those of `Csv`."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        interactions: Path | None = None,
        items: Path | None = None,
        user: str | None = None,
        session: str | None = None,
        item: str | None = None,
        time: str | None = None,
        order: str | None = None,
        title: str | None = None,
        attributes: Sequence[str] | None = None,
    ) -> None:
        self.paths = _paths(path, interactions, items, (".parquet",), "parquet")
        self.names = Names(user, session, item, time, order, title, attributes)

    def read(self) -> RawData:
        """Both tables; `DataError` with file, row and field on what cannot be used."""
        return _read(self.paths, _read_parquet, _parquet_header, self.names)


def read_csv(
    path: Path, wanted: list[str] | None = None, *, separator: str = ",", encoding: str | None = None
) -> tuple[pl.DataFrame, list[str]]:
    """A delimited file as text columns and `row`; and one line per row with a wrong number of fields.

    Raises:
        DataError: the file is missing, empty, in another encoding, or no table.
    """
    data = files.content(path, encoding=encoding)
    try:
        return _parse(data, wanted, separator, ragged=False), []
    except pl.exceptions.PolarsError:
        files.check_utf8(path, data)
    rejected = _wrong_rows(path, data, separator)
    try:
        table = _parse(data, wanted, separator, ragged=True)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path}: not a table separated by {separator!r}: {str(error).splitlines()[0]}"
        ) from None
    return table.filter(~pl.col("row").is_in(list(rejected))), list(rejected.values())


def header(path: Path, *, separator: str = ",", encoding: str | None = None) -> list[str]:
    """The column names of a delimited file."""
    line = files.first_line(path, encoding=encoding)
    if not line.strip():
        raise DataError(f"{path}: no header: its first line is empty")
    return next(csv.reader([line], delimiter=separator))


def _parse(data: bytes, wanted: list[str] | None, separator: str, *, ragged: bool) -> pl.DataFrame:
    table = pl.read_csv(
        data,
        columns=wanted,
        separator=separator,
        infer_schema=False,
        truncate_ragged_lines=ragged,
        row_index_name="row",
        row_index_offset=2,
    )
    return table.with_columns(pl.col("row").cast(pl.Int64))


def _wrong_rows(path: Path, data: bytes, separator: str) -> dict[int, str]:
    """Row -> message for rows with more fields than the header has; the slow path, for damaged files only."""
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), delimiter=separator)
    wrong = {}
    row = 0
    try:
        expected = len(next(rows))
        for row, fields in enumerate(rows, start=2):
            if len(fields) > expected:
                wrong[row] = f"{path}:{row}: {len(fields)} fields where the header has {expected}"
    except csv.Error as error:
        raise DataError(f"{path}:{row + 1}: {error}") from None
    return wrong


def _paths(
    path: Path | None, clicks: Path | None, items: Path | None, endings: tuple[str, ...], reader: str
) -> Callable[[], tuple[Path, Path]]:
    """The two files, looked for only when they are read."""

    def resolve() -> tuple[Path, Path]:
        if path is None and clicks is None:
            raise DataError(
                f"the reader {reader!r} needs --data FOLDER with interactions and items{endings[0]}"
            )
        file = Path(clicks) if clicks is not None else path
        assert file is not None
        folder = file if file.is_dir() or not file.suffix else file.parent
        if file == folder:
            file = files.find(folder, "interactions", endings, holds=_CLICKS)
        elif not file.exists():
            raise DataError(f"{file}: no such file")
        return file, Path(items) if items is not None else files.find(folder, "items", endings, holds=_ITEMS)

    return resolve


def _read(
    paths: Callable[[], tuple[Path, Path]], load: Load, names_of: Callable[[Path], list[str]], names: Names
) -> RawData:
    clicks_file, items_file = paths()
    found = names_of(clicks_file)
    roles = {
        **columns.require(["user", "session"], found, names, where=clicks_file),
        **columns.require(["item"], found, names, where=clicks_file),
        **columns.require(["time", "order"], found, names, where=clicks_file),
    }
    raw = columns.interactions(load(clicks_file, list(roles.values())), roles, where=clicks_file)
    return raw._replace(items=columns.items(load(items_file, None), names, where=items_file))


def _read_parquet(path: Path, wanted: list[str] | None) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path, columns=wanted)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _not_parquet(path, error) from None
    return table.with_row_index("row", offset=1)


def _parquet_header(path: Path) -> list[str]:
    try:
        return list(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _not_parquet(path, error) from None


def _not_parquet(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a whole Parquet file: {reason}")
