"""Recognises columns by name, and converts raw values to our types.

Names are compared without case, spaces, `_`, `-` and RecBole's types: `user_id`, `userId`, `User ID` and
`user_id:token` are equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from llm4sbr.data.readers.times import places, times
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

ALIASES: dict[str, tuple[str, ...]] = {
    "session": ("sessionid", "session", "usersession", "sessionidhash", "gasessionid", "invoiceno"),
    "user": (
        *("userid", "user", "uid", "reviewerid", "visitorid", "customerid", "userpseudoid", "memberid"),
        "clientid",
    ),
    "item": (
        *("itemid", "item", "iid", "parentasin", "asin", "productid", "movieid", "articleid", "sku", "aid"),
        *("videoid", "trackid", "songid", "bookid", "gameid", "recipeid", "venueid", "businessid", "newsid"),
        *("contentid", "stockcode", "productsku", "productskuhash"),
    ),
    "time": (
        *("timestamp", "timestampms", "timems", "time", "ts", "datetime", "unixreviewtime", "createdat"),
        *("eventtimestamp", "servertimestampepochms", "utctimestamp", "eventtime", "invoicedate"),
        *("date", "eventdate", "tdat"),  # a day says less than a clock
    ),
    "order": ("order", "position", "rank", "index"),
    "title": ("title", "itemtitle", "movietitle", "name", "itemname", "productname", "prodname", "caption"),
}
"""Role -> column names that are recognised, best first."""

ROW = "(row)"
"""Name of the column with the row's number in its file; no user's column has such a name."""

_FORM = "a form of date other than ISO 8601: --set data.options.time_format='%d.%m.%Y %H:%M'"

_NO_HEADER = """a file without a header: --set data.options.columns='["user", "item", "time"]'"""

_NONE_AT_ALL = {
    "user": "; without one, nothing says which clicks belong together",
    "time": "; if none has times and the rows are in order, add a column that numbers them",
}
"""What to say if the user's table has no such column."""

_TAKEN = ("item", "title", "id", "key")
"""Names that an attribute cannot have."""

ORDERS = ("order", "position")
"""Names of order columns that are used beside a time without being asked for."""

_TYPE = re.compile(r":(token|token_seq|float|float_seq)$")
"""What RecBole's atomic files write behind a column's name."""

_NONE = ("NA", "N/A", "#N/A", "<NA>", "nan", "NaN", "NAN", "None", "NULL", "Null", "null", "\\N")
"""Texts that other software writes for a missing value."""

_NUMBER = re.compile(r"[-+]?\d[\d.,:/TZ -]*")
"""A number, date or time, which no column is called."""

_SESSIONS = 'write rows as {"session": ..., "items": [...]} for --dataset jsonl'
_LISTS = {
    "prev_items": "--dataset amazon-m2 takes the lists apart",
    "item_id_list": "--dataset recbole takes the lists apart",
    **dict.fromkeys(("items", "item_seq", "history", "session_items"), _SESSIONS),
}
"""Columns of files with a whole session in each row, and what to do with them."""


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
    """Format of the times for strptime, or a unit; None recognises numbers and ISO 8601."""
    items_item: str | None = None
    """The items table's item column; None: as `item`, or recognised by its name."""
    only: str | None = None
    """`COLUMN=VALUE`: which rows of the interactions are clicks; None, empty or `all`: every row."""
    fixed: bool = False
    """The reader has no options with these names, so that messages advise none."""


def find(role: str, found: Sequence[str], names: Names, *, where: Path) -> str | None:
    """The column for `role`, or None; raises `DataError` if the user named a column that is missing."""
    chosen = getattr(names, role)
    if chosen is not None:
        named = next((name for name in found if chosen in (name, _TYPE.sub("", name))), None)
        if named is None:
            raise DataError(
                f"{where}:1: no column {chosen!r} (data.options.{role}); found: {', '.join(found)}"
            )
        return named
    names_of = {plain(name): name for name in reversed(found)}
    return next((names_of[alias] for alias in ALIASES[role] if alias in names_of), None)


def require(
    roles: Sequence[str], found: Sequence[str], names: Names, *, where: Path, option: str = ""
) -> dict[str, str]:
    """The columns for `roles`, of which at least one must exist; `option` names the first, if not the role.

    Raises:
        DataError: none exists; the message lists the columns found and the option that names one.
    """
    columns = {role: name for role in roles if (name := find(role, found, names, where=where)) is not None}
    if not columns:
        listed = [name for name in found if _TYPE.sub("", name.strip().lower()) in _LISTS]
        if listed:
            reads = _LISTS[_TYPE.sub("", listed[0].strip().lower())]
            what = f"{listed[0]} lists several items in each row, and a click per row is read"
            raise DataError(f"{where}:1: {what}: {reads}")
        if found[0].lstrip().startswith(("{", "[")):
            raise DataError(
                f"{where}:1: its first line is no header but JSON: give it to --dataset jsonl, or reviews of "
                "Amazon to --dataset amazon"
            )
        if len(found) == 1 and len(found[0].split()) > 2:
            raise DataError(
                f"{where}:1: {found[0][:60]!r} is one column; if it lists the items of a session, {_SESSIONS}"
            )
        data = any(_NUMBER.fullmatch(name.strip()) for name in found)
        if names.fixed:
            expected = ", ".join(ALIASES[roles[0]][:4])
            raise DataError(
                f"{where}:1: no column for the {' or '.join(roles)} ({expected} ...); "
                f"found: {', '.join(found)}; --dataset csv takes columns of any name"
            )
        raise DataError(
            f"{where}:1: no column for the {' or '.join(roles)}; found: {', '.join(found)}; "
            f"name it with --set data.options.{option or roles[0]}=COLUMN{_NONE_AT_ALL.get(roles[0], '')}"
            f"{'; ' + _NO_HEADER if data else ''}"
        )
    return columns


def interactions(
    table: pl.DataFrame, columns: dict[str, str], *, where: Path, names: Names | None = None
) -> RawData:
    """Clicks with our column names and types; rows with a missing or invalid value are rejected.

    Args:
        table: the columns in `columns`, and `ROW`.
        columns: role -> column, with `item`, one of `user` and `session`, one of `time` and `order`. If there
            are sessions, a click without a user gets its session as its user. Beside a time, an order that
            was chosen, or has an unmistakable name, orders the clicks of one time and tells them apart.
        where: the file, for messages.
        names: the user's choices, for readers with these options.

    Returns:
        `RawData` without items.

    Raises:
        DataError: a column's type cannot be used, or no row is valid.
    """
    clock, own = "time" in columns, names or Names(fixed=True)
    when = columns["time" if clock else "order"]
    table = table.filter(~pl.all_horizontal(pl.col(*dict.fromkeys(columns.values())).is_null()))
    order = columns.get("order") if clock else None
    place: list[pl.Series] = []
    ordered: list[str] = []
    if order is not None:
        try:
            found, ordered = places(table[order], where=f"{where}: {order}")
        except DataError:
            if own.order is not None:
                raise
            ordered = [f"{order} is no order and not used"]  # the number of a purchase, for instance
        else:
            by = found.arg_sort(nulls_last=True)
            table, place = table[by], [found[by].alias("order")]
            if own.order is None:
                ordered.append(f"clicks of one {when} are ordered by {order}")
    seconds, notes = times(
        table[when], clock=clock, form=own.time_format, where=f"{where}: {when}", advise=not own.fixed
    )
    keys = [role for role in ("session", "user", "item") if role in columns]
    ids = {role: _ids(table[columns[role]], f"{where}: {columns[role]}") for role in keys}
    for role, column in ids.items():
        ids[role], count = _without_none(column)
        if count:
            notes.append(f"{columns[role]}: {count:,} values such as NA, null or nan count as missing")
    notes += ordered
    out = pl.DataFrame(
        [
            *(column.alias(role) for role, column in ids.items()),
            seconds.alias("time"),
            table[ROW].cast(pl.Int64).alias("row"),
            *place,
        ]
    )
    if "session" in keys and "user" in keys:
        out, shared = _sessions_by_user(out)
        if shared:
            notes.append(
                f"{shared:,} values of {columns['session']} belong to several users, who are kept apart"
            )
        lonely = out["user"].is_null() & out["session"].is_not_null()
        if lonely.any():
            notes.append(
                f"{lonely.sum():,} clicks have no {columns['user']}: their session counts as their user"
            )
        out = out.with_columns(pl.coalesce("user", pl.format("session {}", "session")))
    usable = pl.all_horizontal(pl.exclude("order").is_not_null())
    if clock:
        usable &= pl.col("time") >= 0
    good = out.select(usable.fill_null(False)).to_series()
    rejected = (
        _reasons(out.filter(~good), table.filter(~good)[when], columns, when, where) if not good.all() else []
    )
    if not good.any():
        first = f"; the first: {rejected[0]}" if rejected else ""
        hint = f"; {_FORM}" if clock and not own.fixed and f"{when}: cannot read" in first else ""
        raise DataError(f"{where}: none of its {table.height} rows can be read{first}{hint}")
    none = pl.DataFrame(schema={"item": pl.String, "title": pl.String})
    return RawData(out.filter(good), none, not clock, rejected, [f"{where.name}: {note}" for note in notes])


def _sessions_by_user(clicks: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Sessions that several users have (a count per user, for instance) named after both; and how many."""
    users = clicks.group_by("session").agg(pl.col("user").drop_nulls().n_unique().alias("users"))
    shared = users.filter((pl.col("users") > 1) & pl.col("session").is_not_null())["session"]
    both = pl.format("{} of {}", "session", "user")
    own = pl.when(pl.col("session").is_in(shared.implode())).then(pl.coalesce(both, "session"))
    return clicks.with_columns(own.otherwise("session").alias("session")), len(shared)


def items(table: pl.DataFrame, names: Names, *, where: Path) -> pl.DataFrame:
    """The items table with our column names, all text; rows without an item id are dropped.

    Raises:
        DataError: a column is missing, or no row has an item id.
    """
    found = [name for name in table.columns if name != ROW]
    # `item` names the column of the interactions; the items table may use another name.
    item = names.items_item
    if item is None:
        own = names if names.item in found else names._replace(item=None)
        item = require(["item"], found, own, where=where, option="items_item")["item"]
    elif item not in found:
        raise DataError(f"{where}:1: no column {item!r} (data.options.items_item); found: {', '.join(found)}")
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
            _without_none(_ids(table[item], f"{where}: {item}"))[0].alias("item"),
            _without_none(_text(table[title]))[0].alias("title"),
            *(_text(table[name]).alias(free) for name, free in zip(extra, _free(extra), strict=True)),
        ]
    ).filter(pl.col("item").is_not_null())
    if out.is_empty():
        raise DataError(f"{where}: no row with an item id in column {item!r}")
    return out


def _free(names: Sequence[str]) -> list[str]:
    """Attribute names, with `_` appended to those that are reserved."""
    free: list[str] = []
    for name in (_TYPE.sub("", name) for name in names):
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


def _without_none(column: pl.Series) -> tuple[pl.Series, int]:
    """Texts that mean a missing value replaced by null, and how many there were."""
    means = column.is_in(_NONE)
    return pl.select(pl.when(~means).then(column)).to_series(), int(means.sum())


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
    for role in (name for name in bad.columns if name not in ("time", "row", "order")):
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
    return "".join(char for char in _TYPE.sub("", name.strip().lower()) if char not in " _-")
