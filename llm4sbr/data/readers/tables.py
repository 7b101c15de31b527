"""Readers `csv` and `parquet`: a folder with a table of interactions and a table of items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from llm4sbr.data.readers import columns, files
from llm4sbr.data.readers.columns import ROW, Names
from llm4sbr.data.readers.delimited import Dialect, header, read_csv
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

_CLICKS = "user_id or session_id, item_id, timestamp or order"
_ITEMS = "item_id, title, any attributes"

Load = Callable[[Path, list[str] | None], pl.DataFrame]
"""Reads some columns of a file (None: all) and `ROW`."""


class Csv:
    """Delimited text, optionally gzipped.

    Args:
        path: a folder with `interactions.csv[.gz]` and `items.csv[.gz]`, or with RecBole's `NAME.inter` and
            `NAME.item`, or the interactions file itself.
        interactions, items: the two files, if they have other names. Each may be a folder of part files, as
            Spark writes them.
        titles: false to work without an items table: items then have only their ids, which mean nothing to
            an LLM.
        user, session, item, time, order, title: column names; common names are recognised without. If there
            is an order besides a time, it orders clicks with equal times and tells them apart.
        items_item: the item column of the items table, if it has another name there.
        attributes: columns of the items table to keep; by default all.
        columns: column names of the interactions, for a file without a header.
        separator: field separator; by default detected from the first line (tab, comma, semicolon or |).
        quote: quote character; empty if quotes are ordinary characters.
        encoding: text encoding, if not UTF-8.
        time_format: format of the times for strptime, such as `%d.%m.%Y %H:%M`, or the unit of numbers:
            milliseconds, seconds, minutes, hours, days.

    A timestamp is in seconds since 1970 (milli-, micro- and nanoseconds are recognised by their size) or an
    ISO 8601 date. An unreadable row is rejected and counted. Titles may also be a column of the interactions.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        interactions: Path | None = None,
        items: Path | None = None,
        titles: bool = True,
        user: str | None = None,
        session: str | None = None,
        item: str | None = None,
        time: str | None = None,
        order: str | None = None,
        title: str | None = None,
        items_item: str | None = None,
        attributes: Sequence[str] | None = None,
        columns: Sequence[str] = (),
        separator: str | None = None,
        quote: str = '"',
        encoding: str | None = None,
        time_format: str | None = None,
    ) -> None:
        self.places = _Places(path, interactions, items, titles, (".csv", ".csv.gz"), "csv")
        self.names = Names(user, session, item, time, order, title, attributes, time_format, items_item)
        self.dialect = Dialect(separator, quote, encoding)
        self.columns = [columns] if isinstance(columns, str) else list(columns)

    def files(self) -> list[Path]:
        """The files that `read` reads."""
        return self.places.files()

    def read(self) -> RawData:
        """Both tables; raises `DataError` with file, row and field if something cannot be used."""
        rejected: list[str] = []
        plain = self.dialect.checked()
        clicks = plain._replace(names=tuple(map(str, self.columns)))

        def dialect(path: Path) -> Dialect:
            return clicks if path == self.places.clicks() else plain

        def load(path: Path, wanted: list[str] | None) -> pl.DataFrame:
            table, bad = read_csv(path, wanted, dialect(path))
            rejected.extend(bad)
            return table

        raw = _read(self.places, load, lambda path: header(path, dialect(path)), self.names)
        return raw._replace(rejected=rejected + raw.rejected)


class Parquet:
    """Parquet tables; the options are those of `Csv`."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        interactions: Path | None = None,
        items: Path | None = None,
        titles: bool = True,
        user: str | None = None,
        session: str | None = None,
        item: str | None = None,
        time: str | None = None,
        order: str | None = None,
        title: str | None = None,
        items_item: str | None = None,
        attributes: Sequence[str] | None = None,
        time_format: str | None = None,
    ) -> None:
        self.places = _Places(path, interactions, items, titles, (".parquet",), "parquet")
        self.names = Names(user, session, item, time, order, title, attributes, time_format, items_item)

    def files(self) -> list[Path]:
        """The files that `read` reads."""
        return self.places.files()

    def read(self) -> RawData:
        """Both tables; raises `DataError` with file, row and field if something cannot be used."""
        return _read(self.places, _read_parquet, _parquet_header, self.names)


class _Places(NamedTuple):
    """Locations of the two files, resolved only when they are read."""

    path: Path | None
    interactions: Path | None
    own_items: Path | None
    titles: bool
    endings: tuple[str, ...]
    reader: str

    def clicks(self) -> Path:
        """The interactions file; raises `DataError` if there is none."""
        if self.interactions is None and self.path is None:
            raise DataError(
                f"the reader {self.reader!r} needs --data FOLDER with interactions and items{self.endings[0]}"
            )
        file = _file(self.interactions if self.interactions is not None else self.path)
        if self.interactions is None and (file.is_dir() or not (file.exists() or file.suffix)):
            atomic = sorted(file.glob("*.inter")) if self.reader == "csv" else []
            if len(atomic) == 1 and not (file / f"interactions{self.endings[0]}").exists():
                return atomic[0]
            return files.find(file, "interactions", self.endings, holds=_CLICKS)
        if not file.exists():
            raise DataError(f"{file}: no such file")
        return file

    def items(self) -> Path | None:
        """The items file, None if there is none."""
        if not self.titles:
            return None
        if self.own_items is not None:
            return _file(self.own_items)
        clicks = self.clicks()
        named = [clicks.with_name(f"items{ending}") for ending in self.endings]
        if clicks.suffix == ".inter":
            named.append(clicks.with_suffix(".item"))
        return next((file for file in named if file.is_file() or file.is_dir()), None)

    def files(self) -> list[Path]:
        """The files that exist: the interactions and, if there is one, the items file; or their parts."""
        items = self.items()
        return [part for file in (self.clicks(), items) if file for part in files.parts(file, self.endings)]


def _file(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise DataError(f"{value!r}: not the name of a file")
    return Path(value).expanduser()


def _read(places: _Places, one: Load, names_of: Callable[[Path], list[str]], names: Names) -> RawData:
    def load(path: Path, wanted: list[str] | None) -> pl.DataFrame:
        tables = [one(part, wanted) for part in files.parts(path, places.endings)]
        try:
            return tables[0] if len(tables) == 1 else pl.concat(tables, how="vertical_relaxed")
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{path}: its part files differ: {str(error).splitlines()[0]}") from None

    def header_of(path: Path) -> list[str]:
        return names_of(files.parts(path, places.endings)[0])

    clicks_file, items_file = places.clicks(), places.items()
    found = header_of(clicks_file)
    names, notes = _items_own(names, found, header_of(items_file) if items_file else None)
    roles = {
        **columns.require(["user", "session"], found, names, where=clicks_file),
        **columns.require(["item"], found, names, where=clicks_file),
        **columns.require(["time", "order"], found, names, where=clicks_file),
    }
    if (
        names.order is None
        and "time" in roles
        and columns.plain(roles.get("order", "")) not in columns.ORDERS
    ):
        roles.pop("order", None)
    if items_file is not None and items_file.resolve() == clicks_file.resolve():
        items_file = None
    texts = _texts(places, clicks_file, found, names) if places.titles and items_file is None else []
    table = load(clicks_file, list(dict.fromkeys([*roles.values(), *texts])))
    raw = columns.interactions(table, roles, where=clicks_file, names=names)
    used = ", ".join(f"{role} {column}" for role, column in roles.items())
    others = [name for name in found if name not in roles.values() and name not in texts]
    passed = f"; not used: {', '.join(others[:8])}{' ...' if len(others) > 8 else ''}" if others else ""
    raw = raw._replace(notes=[f"columns of {clicks_file.name}: {used}{passed}", *notes, *raw.notes])
    if items_file is not None:
        return raw._replace(items=columns.items(load(items_file, None), names, where=items_file))
    if not texts:
        return raw._replace(notes=[*raw.notes, "no titles: items have only ids, useless for an LLM"])
    inside = table.select(ROW, *dict.fromkeys([roles["item"], *texts])).drop_nulls(texts[0])
    items = columns.items(
        inside.unique(roles["item"], keep="first", maintain_order=True), names, where=clicks_file
    )
    return raw._replace(items=items)


def _items_own(names: Names, clicks: list[str], items: list[str] | None) -> tuple[Names, list[str]]:
    """An item column that only the items table has is its own, if the clicks' one has a common name."""
    item = names.item
    own = names._replace(item=None, items_item=item)
    if item is None or items is None or item in clicks or item not in items or names.items_item is not None:
        return names, []
    if columns.find("item", clicks, own, where=Path()) is None:
        return names, []
    return own, [
        f"data.options.item={item}: the clicks have no such column, so it is that of the items table"
    ]


def _texts(places: _Places, clicks: Path, found: list[str], names: Names) -> list[str]:
    """The interactions' columns with title and attributes, if there is no items table."""
    title = columns.find("title", found, names, where=clicks)
    if title is None:
        wanted = " or ".join(f"items{ending}" for ending in places.endings)
        raise DataError(
            f"{clicks.parent}: no {wanted} ({_ITEMS}) in this folder; name another with --set "
            "data.options.items=FILE, or do without titles with --set data.options.titles=false"
        )
    return [title, *(names.attributes or ())]


def _read_parquet(path: Path, wanted: list[str] | None) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path, columns=wanted)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _not_parquet(path, error) from None
    return table.with_row_index(ROW, offset=1)


def _parquet_header(path: Path) -> list[str]:
    try:
        return list(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _not_parquet(path, error) from None


def _not_parquet(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a whole Parquet file: {reason}")
