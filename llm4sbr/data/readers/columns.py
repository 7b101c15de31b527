"""Recognises columns by name, and converts raw values to our types.

Names are compared without case, spaces, `_` and `-`: `user_id`, `userId` and `User ID` are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from llm4sbr.data.readers.times import times
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

ALIASES: dict[str, tuple[str, ...]] = {
    "session": ("sessionid", "session"),
    "user": ("userid", "user", "uid", "reviewerid", "visitorid", "customerid"),
    "item": (
        *("itemid", "item", "iid", "parentasin", "asin", "productid", "movieid", "articleid", "sku", "aid"),
    ),
    "time": (
        *("timestamp", "time", "ts", "datetime", "date", "unixreviewtime", "createdat", "eventtime"),
        "eventdate",
    ),
    "order": ("order", "position", "rank", "index"),
    "title": ("title", "itemtitle", "movietitle", "name", "itemname", "productname"),
}
"""Role -> column names that are recognised, best first."""

ROW = "(row)"
"""Name of the column with the row's number in its file; no user's column has such a name."""

_FORM = "a form of date other than ISO 8601: --set data.options.time_format='%d.%m.%Y %H:%M'"

_NO_HEADER = """a file without a header: --set data.options.columns='["user", "item", "time"]'"""

_TAKEN = ("item", "title", "id", "key")
"""Names that an attribute cannot have."""


class Names(NamedTuple):
    """Column names given by the user; None means that the column is recognised by its name."""

    user: str | None = None
    session: str | None = None
    item: str | None = None
    time: str | None = None
    order: str | None = None
    title: str | None = None
    attributes: Sequence[str] | None = None
    """Columns of the items table to keep as attributes; None keeps all other columns."""
    time_format: str | None = None
    """Format of the times for strptime; None recognises numbers and ISO 8601."""


def find(role: str, found: Sequence[str], names: Names, *, where: Path) -> str | None:
    """The column for `role`, or None; raises `DataError` if the user named a column that is missing."""
    chosen = getattr(names, role)
    if chosen is not None:
        if chosen not in found:
            raise DataError(
                f"{where}:1: no column {chosen!r} (data.options.{role}); found: {', '.join(found)}"
            )
        return str(chosen)
    names_of = {plain(name): name for name in reversed(found)}
    return next((names_of[alias] for alias in ALIASES[role] if alias in names_of), None)


def require(roles: Sequence[str], found: Sequence[str], names: Names, *, where: Path) -> dict[str, str]:
    """The columns for `roles`, of which at least one must exist.

    Raises:
        DataError: none exists; the message lists the columns found and the option that names one.
    """
    columns = {role: name for role in roles if (name := find(role, found, names, where=where)) is not None}
    if not columns:
        data = any(name.strip().isdigit() for name in found)
        raise DataError(
            f"{where}:1: no column for the {' or '.join(roles)}; found: {', '.join(found)}; "
            f"name it with --set data.options.{roles[0]}=COLUMN{'; ' + _NO_HEADER if data else ''}"
        )
    return columns


def interactions(
    table: pl.DataFrame, columns: dict[str, str], *, where: Path, names: Names | None = None
) -> RawData:
    """Clicks with our column names and types; rows with a missing or invalid value are rejected.

    Args:
        table: the columns in `columns`, and `ROW`.
        columns: role -> column, with `item`, one of `user` and `session`, one of `time` and `order`. If there
            are sessions, a click without a user gets its session as its user.
        where: the file, for messages.
        names: the user's choices, for readers with these options: the format of times, and an order column
            that breaks ties between equal times.

    Returns:
        `RawData` without items.

    Raises:
        DataError: a column's type cannot be used, or no row is valid.
    """
    clock, own = "time" in columns, names or Names()
    when = columns["time" if clock else "order"]
    table = table.filter(~pl.all_horizontal(pl.col(*dict.fromkeys(columns.values())).is_null()))
    if clock and own.order is not None:
        place, _ = times(table[own.order], clock=False, where=f"{where}: {own.order}")
        table = table[place.arg_sort(nulls_last=True)]
    seconds, notes = times(table[when], clock=clock, form=own.time_format, where=f"{where}: {when}")
    keys = [role for role in ("session", "user", "item") if role in columns]
    out = pl.DataFrame(
        [
            *(_ids(table[columns[role]], f"{where}: {columns[role]}").alias(role) for role in keys),
            seconds.alias("time"),
            table[ROW].cast(pl.Int64).alias("row"),
        ]
    )
    if "session" in keys and "user" in keys:
        lonely = out["user"].is_null() & out["session"].is_not_null()
        if lonely.any():
            notes.append(
                f"{lonely.sum():,} clicks have no {columns['user']}: their session counts as their user"
            )
        out = out.with_columns(pl.coalesce("user", pl.format("session {}", "session")))
    usable = pl.all_horizontal(pl.all().is_not_null())
    if clock:
        usable &= pl.col("time") >= 0
    good = out.select(usable.fill_null(False)).to_series()
    rejected = (
        _reasons(out.filter(~good), table.filter(~good)[when], columns, when, where) if not good.all() else []
    )
    if not good.any():
        first = f"; the first: {rejected[0]}" if rejected else ""
        hint = f"; {_FORM}" if names and clock and f"{when}: cannot read" in first else ""
        raise DataError(f"{where}: none of its {table.height} rows can be read{first}{hint}")
    none = pl.DataFrame(schema={"item": pl.String, "title": pl.String})
    return RawData(out.filter(good), none, not clock, rejected, [f"{where.name}: {note}" for note in notes])


def items(table: pl.DataFrame, names: Names, *, where: Path) -> pl.DataFrame:
    """The items table with our column names, all text; rows without an item id are dropped.

    Raises:
        DataError: a column is missing, or no row has an item id.
    """
    found = [name for name in table.columns if name != ROW]
    # The option names the column of the interactions; the items table may use another name.
    own = names if names.item in found else names._replace(item=None)
    item = require(["item"], found, own, where=where)["item"]
    title = require(["title"], found, names, where=where)["title"]
    extra = [name for name in found if name.strip() and name not in (item, title)]
    if names.attributes is not None:
        chosen = [names.attributes] if isinstance(names.attributes, str) else list(names.attributes)
        missing = [name for name in chosen if name not in found]
        if missing:
            raise DataError(
                f"{where}:1: no column {missing[0]!r} (data.options.attributes); found: {', '.join(found)}"
            )
        extra = [name for name in dict.fromkeys(chosen) if name not in (item, title)]
    out = pl.DataFrame(
        [
            _ids(table[item], f"{where}: {item}").alias("item"),
            _text(table[title]).alias("title"),
            *(_text(table[name]).alias(free) for name, free in zip(extra, _free(extra), strict=True)),
        ]
    ).filter(pl.col("item").is_not_null())
    if out.is_empty():
        raise DataError(f"{where}: no row with an item id in column {item!r}")
    return out


def _free(names: Sequence[str]) -> list[str]:
    """Attribute names, with `_` appended to those that are reserved."""
    free: list[str] = []
    for name in names:
        while name in _TAKEN or name in free:
            name += "_"
        free.append(name)
    return free


def _ids(column: pl.Series, where: str) -> pl.Series:
    """Ids as stripped text, null if missing; whole numbers without a decimal point."""
    if column.dtype.is_nested() or column.dtype == pl.Object:
        raise DataError(f"{where}: holds {column.dtype}; one id per row is needed")
    if column.dtype.is_float() or column.dtype.is_decimal():
        whole = column.cast(pl.Int64, strict=False)
        if (whole.cast(pl.Float64) == column.cast(pl.Float64)).all():
            column = whole
    return _text(column).str.strip_chars().replace("", None)


def _text(column: pl.Series) -> pl.Series:
    if column.dtype.is_nested() or column.dtype == pl.Duration:
        return pl.Series([_leaves(value) for value in column.to_list()], dtype=pl.String)
    if column.dtype == pl.Binary:  # a cast would fail at the first invalid byte
        return pl.Series([_utf8(value) for value in column.to_list()], dtype=pl.String)
    return column.cast(pl.String, strict=False)


def _utf8(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _leaves(value: Any) -> str | None:
    """The texts in nested lists and records, flattened."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return " ".join(text for one in value if (text := _leaves(one)) is not None)
    return None if value is None else str(value)


def _reasons(bad: pl.DataFrame, raw: pl.Series, columns: dict[str, str], when: str, where: Path) -> list[str]:
    """One line per rejected row: `file:row: field: reason`."""
    reason: Any = pl.when(False).then(pl.lit(""))
    for role in (name for name in bad.columns if name not in ("time", "row")):
        reason = reason.when(pl.col(role).is_null()).then(pl.lit(f"{columns[role]}: missing"))
    reason = (
        reason.when(pl.col("raw").is_null() | (pl.col("raw") == ""))
        .then(pl.lit(f"{when}: missing"))
        .when(pl.col("time").is_null())
        .then(pl.format(f"{when}: cannot read '{{}}'", pl.col("raw").str.slice(0, 40)))
        .otherwise(pl.format(f"{when}: negative time {{}}", pl.col("raw")))
    )
    line = pl.format("{}:{}: {}", pl.lit(str(where)), pl.col("row"), reason)
    return bad.with_columns(raw.cast(pl.String).alias("raw")).select(line).to_series().to_list()


def plain(name: str) -> str:
    """A column's name in the form in which names are compared."""
    return "".join(char for char in name.lower() if char not in " _-")
