"""Readers `csv` and `parquet`: a folder with a table of interactions and a table of items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from llm4sbr.data.readers import columns, files, identity, published
from llm4sbr.data.readers.columns import ROW, Names
from llm4sbr.data.readers.delimited import Dialect, header, read_csv
from llm4sbr.data.readers.locations import Locations
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

_ITEMS = "item_id, title, any attributes"

_NUMBER = 8
"""Bytes of a value in memory, at least."""

Load = Callable[[Path, list[str] | None], pl.DataFrame]
"""Reads some columns of a file (None: all) and `ROW`."""


class Csv:
    """Delimited text, optionally gzipped.

    Args:
        path: a folder with `interactions.csv[.gz]` and `items.csv[.gz]`, or with RecBole's `NAME.inter` and
            `NAME.item`, or with the files of Diginetica, H&M, KuaiRand or KuaiRec as published; or the
            interactions file itself.
        interactions, items: the two files, if they have other names. Each may be a folder of part files, as
            Spark writes them, or a name with `*`.
        titles: false to work without an items table: items then have only their ids, which mean nothing to
            an LLM.
        user, session, item, time, order, title: column names; common names are recognised without. If there
            is an order besides a time, it orders clicks with equal times and tells them apart.
        items_item: the item column of the items table, if it has another name there.
        attributes: columns of the items table to keep; by default all.
        only: `COLUMN=VALUE`: only rows of the interactions with this value are clicks, such as `event=view`;
            `all`: every row, also where a published log has a rule of its own.
        columns, items_columns: column names of the interactions and of the items table, for files without a
            header.
        separator: field separator; by default, and in a file without it, detected from the first line
            (tab, comma, semicolon or |).
        quote: quote character; empty or `none` if quotes are ordinary characters.
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
        only: str | None = None,
        columns: Sequence[str] = (),
        items_columns: Sequence[str] = (),
        separator: str | None = None,
        quote: str = '"',
        encoding: str | None = None,
        time_format: str | None = None,
    ) -> None:
        self.locations = Locations(path, interactions, items, titles, (".csv", ".csv.gz"), "csv")
        self.names = Names(user, session, item, time, order, title, attributes, time_format, items_item, only)
        self.dialect = Dialect(separator, quote, encoding)
        self.columns, self.items_columns = _several(columns), _several(items_columns)

    def files(self) -> list[Path]:
        """The files that `read` reads."""
        return self.locations.files()

    def read(self) -> RawData:
        """Both tables; raises `DataError` with file, row and field if something cannot be used."""
        rejected: list[str] = []
        plain = self.dialect.checked()
        clicks = plain._replace(names=self.columns)
        items = plain._replace(names=self.items_columns, option="items_columns")
        table_of_items = self.locations.items()
        of_items = files.parts(table_of_items, self.locations.endings) if table_of_items else []

        def dialect(path: Path) -> Dialect:
            return items if path in of_items else clicks

        def load(path: Path, wanted: list[str] | None) -> pl.DataFrame:
            table, bad = read_csv(path, wanted, dialect(path))
            rejected.extend(bad)
            return table

        raw = read_tables(self.locations, load, lambda path: header(path, dialect(path)), self.names)
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
        only: str | None = None,
    ) -> None:
        self.locations = Locations(path, interactions, items, titles, (".parquet",), "parquet")
        self.names = Names(user, session, item, time, order, title, attributes, time_format, items_item, only)

    def files(self) -> list[Path]:
        """The files that `read` reads."""
        return self.locations.files()

    def read(self) -> RawData:
        """Both tables; raises `DataError` with file, row and field if something cannot be used."""
        return read_tables(self.locations, _read_parquet, _parquet_header, self.names)


def read_tables(
    locations: Locations, one: Load, names_of: Callable[[Path], list[str]], names: Names
) -> RawData:
    """The interactions and items in tables that `one` reads and whose columns `names_of` lists."""

    def load(path: Path, wanted: list[str] | None) -> pl.DataFrame:
        tables = [one(part, wanted) for part in files.parts(path, locations.endings)]
        try:
            return tables[0] if len(tables) == 1 else pl.concat(tables, how="vertical_relaxed")
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{path}: its part files differ: {str(error).splitlines()[0]}") from None

    def header_of(path: Path) -> list[str]:
        return names_of(files.parts(path, locations.endings)[0])

    clicks_file, items_file = locations.clicks(), locations.items()
    known = published.layout(clicks_file) if locations.reader == "csv" else None
    found = header_of(clicks_file)
    names = published.chosen(names, known, found)
    names, notes = _items_own(names, found, header_of(items_file) if items_file else None)
    if known is not None:
        left = f"; not read: {known.left_out}" if known.left_out else ""
        notes = [f"read as {known.name}'s {clicks_file.name}{left}", *notes]
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
    without = locations.without_titles() or items_file is not None
    texts = [] if without else _texts(locations, clicks_file, found, names)
    only = _only(names, found, clicks_file)
    table = load(clicks_file, list(dict.fromkeys([*roles.values(), *texts, *only[:1]])))
    if only:
        rows, table = table.height, table.filter(pl.col(only[0]).cast(pl.String) == only[1])
        notes = [*notes, f"{rows - table.height:,} rows are no clicks, since {only[0]} is not {only[1]}"]
        if table.is_empty():
            raise DataError(
                f"{clicks_file}: in none of its {rows:,} rows {only[0]} is {only[1]} (data.options.only)"
            )
    raw = columns.interactions(table, roles, where=clicks_file, names=names)
    used = ", ".join(f"{role} {column}" for role, column in roles.items())
    others = [name for name in found if name not in roles.values() and name not in texts]
    passed = f"; not used: {', '.join(others[:8])}{' ...' if len(others) > 8 else ''}" if others else ""
    if "session" in roles and not raw.ordered_only:
        doubt = identity.restarts(raw.interactions, roles["session"], has_users="user" in roles)
        notes = [*notes, *([doubt] if doubt else [])]
    raw = raw._replace(notes=[f"columns of {clicks_file.name}: {used}{passed}", *notes, *raw.notes])
    if items_file is not None:
        named = published.chosen_of_items(names, known, header_of(items_file))
        return raw._replace(items=columns.items(load(items_file, None), named, where=items_file))
    if not texts:
        return raw._replace(notes=[*raw.notes, "no titles: items have only ids, useless for an LLM"])
    inside = table.select(ROW, *dict.fromkeys([roles["item"], *texts])).drop_nulls(texts[0])
    items = columns.items(
        inside.unique(roles["item"], keep="first", maintain_order=True), names, where=clicks_file
    )
    return raw._replace(items=items)


def _several(names: Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _only(names: Names, found: list[str], clicks: Path) -> tuple[str, str] | tuple[()]:
    """The column and the value that make a row a click; empty if every row is one."""
    if names.only in (None, "", "all"):
        return ()
    column, equals, value = names.only.partition("=")
    if not equals or column not in found:
        raise DataError(
            f"{clicks}:1: data.options.only = {names.only!r}: expected COLUMN=VALUE, such as event=view; "
            f"found: {', '.join(found)}"
        )
    return column, value


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


def _texts(locations: Locations, clicks: Path, found: list[str], names: Names) -> list[str]:
    """The interactions' columns with title and attributes, if there is no items table."""
    title = columns.find("title", found, names, where=clicks)
    if title is None:
        wanted = " or ".join(f"items{ending}" for ending in locations.endings)
        raise DataError(
            f"{clicks.parent}: no {wanted} ({_ITEMS}) in this folder; name another with --set "
            "data.options.items=FILE, or do without titles with --set data.options.titles=false"
        )
    return [title, *(names.attributes or ())]


def _read_parquet(path: Path, wanted: list[str] | None) -> pl.DataFrame:
    try:
        rows = pl.scan_parquet(path).select(pl.len()).collect().item()
        taken = rows * _NUMBER * (len(wanted) if wanted is not None else 1)
        if taken > (limit := files.allowed(path.stat().st_size)):
            raise DataError(
                f"{path}: its {rows:,} rows unpack to more than {limit:,} bytes, the limit for such a file; "
                "write it as a folder of part files"
            )
        table = pl.read_parquet(path, columns=wanted)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _not_parquet(path, error) from None
    return table.with_row_index(ROW, offset=1)


def _parquet_header(path: Path) -> list[str]:
    try:
        return list(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _not_parquet(path, error) from None


def _not_parquet(path: Path, error: BaseException) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a whole Parquet file: {reason}")
