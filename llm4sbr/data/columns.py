"""Which column is which, and raw values as our types.

Names are compared without case, spaces, `_` and `-`: `user_id`, `userId` and `User ID` are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

ALIASES: dict[str, tuple[str, ...]] = {
    "session": ("sessionid", "session"),
    "user": ("userid", "user", "uid", "reviewerid", "visitorid", "customerid"),
    "item": ("itemid", "item", "iid", "asin", "productid", "movieid", "articleid", "sku"),
    "time": ("timestamp", "time", "ts", "datetime", "date", "unixreviewtime", "createdat"),
    "order": ("order", "position", "rank", "index"),
    "title": ("title", "itemtitle", "movietitle", "name", "itemname", "productname"),
}
"""Role -> names recognised, best first."""

_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))


class Names(NamedTuple):
    """Column names that the user gave; None is to be recognised."""

    user: str | None = None
    session: str | None = None
    item: str | None = None
    time: str | None = None
    order: str | None = None
    title: str | None = None
    attributes: Sequence[str] | None = None
    """Columns of the items table to keep as attributes; None keeps all that are left."""


def find(role: str, found: Sequence[str], names: Names, *, where: Path) -> str | None:
    """The column that plays `role`, None if there is none; `DataError` if one was named that is missing."""
    chosen = getattr(names, role)
    if chosen is not None:
        if chosen not in found:
            raise DataError(
                f"{where}:1: no column {chosen!r} (data.options.{role}); found: {', '.join(found)}"
            )
        return str(chosen)
    plain = {_plain(name): name for name in reversed(found)}
    return next((plain[alias] for alias in ALIASES[role] if alias in plain), None)


def require(roles: Sequence[str], found: Sequence[str], names: Names, *, where: Path) -> dict[str, str]:
    """The columns that play `roles`, of which at least one must exist.

    Raises:
        DataError: none exists; the message lists the columns found and the option that names one.
    """
    columns = {role: name for role in roles if (name := find(role, found, names, where=where)) is not None}
    if not columns:
        raise DataError(
            f"{where}:1: no column for the {' or '.join(roles)}; found: {', '.join(found)}; "
            f"name it with --set data.options.{roles[0]}=COLUMN"
        )
    return columns


def interactions(table: pl.DataFrame, columns: dict[str, str], *, where: Path) -> RawData:
    """Clicks with our column names and types; rows that lack a value or have a wrong one are rejected.

    Args:
        table: the columns named in `columns`, and `row`.
        columns: role -> column, with `item`, one of `user` and `session`, one of `time` and `order`.
        where: the file, for messages.

    Returns:
        `RawData` without items.

    Raises:
        DataError: no row can be read.
    """
    clock = "time" in columns
    when = columns["time" if clock else "order"]
    table = table.filter(~pl.all_horizontal(pl.col(*columns.values()).is_null()))
    times, notes = _times(table[when], clock=clock)
    keys = [role for role in ("session", "user", "item") if role in columns]
    out = table.select(
        *(
            pl.col(columns[role]).cast(pl.String).str.strip_chars().replace("", None).alias(role)
            for role in keys
        ),
        times.alias("time"),
        pl.col("row").cast(pl.Int64),
    )
    usable = pl.all_horizontal(pl.all().is_not_null())
    if clock:
        usable &= pl.col("time") >= 0
    good = out.select(usable.fill_null(False)).to_series()
    rejected = (
        _reasons(out.filter(~good), table.filter(~good)[when], columns, when, where) if not good.all() else []
    )
    if not good.any():
        first = f"; the first: {rejected[0]}" if rejected else ""
        raise DataError(f"{where}: none of its {table.height} rows can be read{first}")
    none = pl.DataFrame(schema={"item": pl.String, "title": pl.String})
    return RawData(out.filter(good), none, not clock, rejected, [f"{where.name}: {note}" for note in notes])


def items(table: pl.DataFrame, names: Names, *, where: Path) -> pl.DataFrame:
    """The items table with our column names, all text; rows without an item id are left out."""
    found = [name for name in table.columns if name != "row"]
    # The option names the column of the clicks; the items table may call it something else.
    own = names if names.item in found else names._replace(item=None)
    item = require(["item"], found, own, where=where)["item"]
    title = require(["title"], found, names, where=where)["title"]
    extra = [name for name in found if name not in (item, title)]
    if names.attributes is not None:
        missing = [name for name in names.attributes if name not in found]
        if missing:
            raise DataError(
                f"{where}:1: no column {missing[0]!r} (data.options.attributes); found: {', '.join(found)}"
            )
        extra = list(names.attributes)
    return table.select(
        _text(table, item).str.strip_chars().alias("item"),
        _text(table, title).alias("title"),
        *(_text(table, name).alias(name if name not in ("id", "key") else f"{name}_") for name in extra),
    ).filter(pl.col("item").is_not_null() & (pl.col("item") != ""))


def _text(table: pl.DataFrame, name: str) -> pl.Expr:
    if isinstance(table.schema[name], pl.List):
        return pl.col(name).cast(pl.List(pl.String)).list.join(" ")
    return pl.col(name).cast(pl.String)


def _times(column: pl.Series, *, clock: bool) -> tuple[pl.Series, list[str]]:
    """Seconds (Float64) or order (Int64), null where there is none."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        first = column.drop_nulls().head(1000)  # what most of them are; the odd one out is a broken row
        if clock and first.cast(pl.Float64, strict=False).null_count() > len(first) / 2:
            return _dates(column), []
    elif column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6, []
    numbers = column.cast(pl.Float64, strict=False)
    numbers = pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series()
    if not clock:
        return numbers.cast(pl.Int64, strict=False), []
    median = numbers.median()
    size = median if isinstance(median, float) else 0.0
    for least, divisor, unit in _UNITS:
        if size > least:
            return numbers / divisor, [f"timestamps are {unit}"]
    return numbers, []


def _dates(column: pl.Series) -> pl.Series:
    """ISO 8601 dates as seconds, UTC where no zone is given."""
    text = pl.lit(column.str.replace(" ", "T", literal=True))
    parsed = [
        text.str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")
        if not form.endswith("z")
        else text.str.to_datetime(form, time_unit="us", strict=False)
        for form in _FORMATS
    ]
    return pl.select(pl.coalesce(parsed).dt.epoch("us") / 1e6).to_series()


def _reasons(bad: pl.DataFrame, raw: pl.Series, columns: dict[str, str], when: str, where: Path) -> list[str]:
    """One line per rejected row: `file:row: field: why`."""
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


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char not in " _-")
