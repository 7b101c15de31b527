"""Reads delimited text (CSV and the like) as tables of text columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from llm4sbr.data.readers import files
from llm4sbr.data.readers.columns import ROW
from llm4sbr.errors import DataError

_SEPARATORS = "\t,;|"
"""Possible separators, most reliable first: a tab is rarely anything else."""


class Dialect(NamedTuple):
    """The format of a delimited file."""

    separator: str | None = None
    """None, or not in the first line: the first of tab, comma, semicolon and | that is."""
    quote: str = '"'
    """Empty or `none`: quotes are ordinary characters."""
    encoding: str | None = None
    """None: UTF-8."""
    names: tuple[str, ...] = ()
    """Column names, for a file without a header."""
    option: str = "columns"
    """The reader's option with these names; empty if it has none, nor the options of this class."""

    @property
    def advises(self) -> bool:
        """Whether the reader has these options, so that messages may advise them."""
        return bool(self.option)

    def checked(self) -> Dialect:
        r"""The dialect with words replaced by what they mean; raises `DataError` if an option is invalid."""
        separator = "\t" if self.separator in ("tab", "\\t") else self.separator
        quote = "" if self.quote == "none" else self.quote
        for option, value in (("separator", separator or self.separator), ("quote", quote or "'")):
            if value is not None and not _one_character(value):
                raise DataError(
                    f"data.options.{option} = {value!r}: expected one character, such as ';' or tab"
                )
        return self._replace(separator=separator, quote=quote)

    def for_line(self, line: str) -> Dialect:
        """The dialect with its separator, detected from the first line of a file that has not the one given.

        An option serves both tables, of which only one may need it.
        """
        if self.separator is not None and self.separator in line:
            return self
        return self._replace(separator=next((one for one in _SEPARATORS if one in line), ","))

    def fields(self) -> dict[str, Any]:
        """Arguments of `csv.reader`."""
        quoting = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        return {"delimiter": self.separator, "quotechar": self.quote or None, "quoting": quoting}


PLAIN = Dialect(option="")
"""Of readers without options for it."""


def header(path: Path, dialect: Dialect = PLAIN) -> list[str]:
    """The column names of a file.

    Raises:
        DataError: it has no header, or the number of columns differs from that of the given names.
    """
    line = files.first_line(path, encoding=dialect.encoding, advise=dialect.advises)
    if not line.strip():
        raise DataError(f"{path}: no header: its first line is empty")
    try:
        found = next(csv.reader([line], **dialect.for_line(line).fields()))
    except csv.Error as error:
        raise DataError(f"{path}:1: its first line is no header of a table: {error}") from None
    if dialect.names and len(found) != len(dialect.names):
        option = f" (data.options.{dialect.option})" if dialect.option else ""
        raise DataError(f"{path}:1: {len(found)} fields, but names for {len(dialect.names)}{option}")
    return list(dialect.names) or found


def read_csv(
    path: Path, wanted: list[str] | None = None, dialect: Dialect = PLAIN
) -> tuple[pl.DataFrame, list[str]]:
    """The file as text columns and `ROW`; and one line per row with a wrong number of fields.

    Raises:
        DataError: the file is missing, empty, in another encoding, or not a table.
    """
    data = files.content(path, encoding=dialect.encoding)
    line = files.first_line(path, encoding=dialect.encoding, advise=dialect.advises)
    dialect = dialect.for_line(line)
    try:
        return _parse(data, wanted, dialect, ragged=False), []
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        files.check_utf8(path, data, advise=dialect.advises)
    rejected = _wrong_rows(path, data, dialect)
    try:
        table = _parse(data, wanted, dialect, ragged=True)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        quoted = dialect.quote and dialect.advises
        hint = "; if quotes mean nothing in it: --set data.options.quote=none" if quoted else ""
        raise DataError(
            f"{path}: not a table separated by {dialect.separator!r}: {str(error).splitlines()[0]}{hint}"
        ) from None
    table = table.filter(~pl.col(ROW).is_in(list(rejected)))
    if rejected and table.is_empty():
        raise DataError(f"{path}: no row can be read; the first: {next(iter(rejected.values()))}")
    return table, list(rejected.values())


def _parse(data: bytes, wanted: list[str] | None, dialect: Dialect, *, ragged: bool) -> pl.DataFrame:
    table = pl.read_csv(
        data,
        columns=None if dialect.names else wanted,
        has_header=not dialect.names,
        new_columns=dialect.names or None,
        separator=dialect.separator or ",",
        quote_char=dialect.quote or None,
        infer_schema=False,
        truncate_ragged_lines=ragged,
        row_index_name=ROW,
        row_index_offset=_first_row(dialect),
    )
    return table.select(pl.col(ROW).cast(pl.Int64), *([pl.exclude(ROW)] if wanted is None else wanted))


def _wrong_rows(path: Path, data: bytes, dialect: Dialect) -> dict[int, str]:
    """Row -> message for rows with too many fields; slow, and only used for damaged files."""
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")
    rows = csv.reader(text, **dialect.fields())
    wrong = {}
    row = 0
    try:
        expected = len(dialect.names) or len(next(rows))
        for row, fields in enumerate(rows, start=_first_row(dialect)):
            if len(fields) > expected:
                wrong[row] = f"{path}:{row}: {len(fields)} fields where the header has {expected}"
    except csv.Error as error:
        raise DataError(f"{path}:{row + 1}: {error}") from None
    return wrong


def _first_row(dialect: Dialect) -> int:
    """Number of the first data row."""
    return 1 if dialect.names else 2


def _one_character(value: object) -> bool:
    return isinstance(value, str) and len(value) == 1 and value.isascii() and value not in "\r\n"
