"""Reader `jsonl`: finished sessions, one JSON object per line.

`sessions.jsonl`: `{"session": "a1", "items": ["i3", "i7"], "time": 1700000000}`. `items` are oldest first.
`time` is the session's start in seconds since 1970 (its clicks then count as one second apart) or a list with
one time per click; if no line has it, sessions have an order but no time. Titles come from `items.jsonl`
(`{"item": "i3", "title": "Red Lamp", "category": "Lamp"}`) or `items.csv` in the same folder, or from a list
`titles` in the session, as long as `items`. Instead of `items`, a session may have `events`, one object per
click with an item and a time under any name that the reader `csv` recognises, as in OTTO's log
(`{"session": 0, "events": [{"aid": 7, "ts": 1659304800025}]}`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from llm4sbr.data.readers import columns, lines
from llm4sbr.data.readers.columns import ALIASES, Names, plain
from llm4sbr.data.readers.delimited import read_csv
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

_SESSIONS = ("sessions.jsonl", "sessions.jsonl.gz")
_ITEMS = ("items.jsonl", "items.jsonl.gz", "items.csv", "items.csv.gz")
Click = tuple[str, str, float | None, int]
"""Session, item, time, row."""

_LARGEST = 1e300
"""Above any real time; larger whole numbers would not fit into a column."""

_SCHEMA = {"session": pl.String, "item": pl.String, "time": pl.Float64, columns.ROW: pl.Int64}


class JsonLines:
    """Sessions as lists of items.

    Args:
        path: a folder with `sessions.jsonl[.gz]`, or that file itself.
        items: the items file, if it is in another folder or has another name.
        titles: false to work without titles: items then have only their ids, which tell an LLM nothing.
    """

    def __init__(self, path: Path | None = None, *, items: Path | None = None, titles: bool = True) -> None:
        self.path = path
        self.items = items
        self.titles = titles

    def files(self) -> list[Path]:
        """The files that `read` reads."""
        items = self._items_file()
        return [self._sessions_file(), *([items] if items else [])]

    def _sessions_file(self) -> Path:
        if self.path is None:
            raise DataError("the reader 'jsonl' needs --data FOLDER with sessions.jsonl")
        file = _first(self.path, _SESSIONS) if self.path.is_dir() else self.path
        if file is None:
            raise DataError(f"{self.path}: no sessions.jsonl in this folder")
        return file

    def _items_file(self) -> Path | None:
        if not self.titles:
            return None
        return Path(self.items) if self.items else _first(self._sessions_file().parent, _ITEMS)

    def read(self) -> RawData:
        """Every session; raises `DataError` with file, row and field if something cannot be used."""
        file = self._sessions_file()
        rejected: list[str] = []
        clicks: list[Click] = []
        titles: dict[str, str] = {}
        clock = False
        for row, line in lines.read(file, rejected):
            value = _with_items(line)
            problem = _problem(value)
            if problem:
                rejected.append(f"{file}:{row}: {problem}")
                continue
            clock |= value.get("time") is not None
            clicks += _clicks(value, row)
            titles |= dict(zip(map(str, value["items"]), map(str, value.get("titles", [])), strict=False))
        if not clicks:
            raise DataError(f"{file}: no session can be read; the first: {rejected[0]}")
        raw = _raw(clicks, clock, file)
        items, bad = self._titles(file, titles)
        return raw._replace(items=items, rejected=rejected + raw.rejected + bad)

    def _titles(self, sessions: Path, inline: dict[str, str]) -> tuple[pl.DataFrame, list[str]]:
        path = self._items_file()
        if path is not None:
            return _items(path)
        if self.titles and not inline:
            names = " or ".join(_ITEMS)
            raise DataError(
                f"{sessions.parent}: no {names}, and no session has a list 'titles'; name a file with --set "
                "data.options.items=FILE, or do without titles with --set data.options.titles=false"
            )
        texts = {"item": list(inline), "title": list(inline.values())}
        return pl.DataFrame(texts, schema=dict.fromkeys(texts, pl.String)), []


def _with_items(value: dict[str, Any]) -> dict[str, Any]:
    """The session with `items` and `time` in place of `events`."""
    events = value.get("events")
    if "items" in value or not isinstance(events, list) or not all(isinstance(one, dict) for one in events):
        return value
    found = {
        role: [next((one[n] for n in one if plain(n) in ALIASES[role]), None) for one in events]
        for role in ("item", "time")
    }
    return {**value, "items": found["item"], "time": found["time"]}


def _problem(value: dict[str, Any]) -> str:
    """What is wrong with a session, "" if it is valid."""
    items, titles, time = value.get("items"), value.get("titles"), value.get("time")
    if value.get("session") in (None, ""):
        return "session: missing"
    if not isinstance(items, list) or not items:
        return "items: not a list of at least one item"
    if any(not isinstance(item, str | int) or isinstance(item, bool) or item == "" for item in items):
        return "items: an item that is neither text nor a whole number"
    if titles is not None and (not isinstance(titles, list) or len(titles) != len(items)):
        return f"titles: not a list as long as items ({len(items)})"
    if isinstance(time, list) and len(time) != len(items):
        return f"time: {len(time)} times for {len(items)} items"
    if not all(_is_number(one) for one in (time if isinstance(time, list) else [time or 0])):
        return f"time: not a number: {str(time)[:40]}"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and -_LARGEST < value < _LARGEST


def _clicks(value: dict[str, Any], row: int) -> list[Click]:
    name, items, time = str(value["session"]), value["items"], value.get("time")
    if not isinstance(time, list):
        time = [None if time is None else time + place for place in range(len(items))]
    return [(name, str(item), one, row) for item, one in zip(items, time, strict=True)]


def _raw(clicks: list[Click], clock: bool, file: Path) -> RawData:
    table = pl.DataFrame(clicks, schema=_SCHEMA, orient="row")
    if clock:
        # The list is the order: a click that is listed later did not come earlier.
        late = pl.col("time").cum_max().over("session", columns.ROW)
        turned = table.filter(pl.col("time") < late).select(pl.col("session").n_unique()).item()
        table = table.with_columns(late.alias("time"), pl.int_range(pl.len()).alias("order"))
        roles = {"session": "session", "item": "item", "time": "time", "order": "order"}
        raw = columns.interactions(table, roles, where=file, names=Names(order="order", fixed=True))
        said = f"{file.name}: {turned:,} sessions have times against the order of their lists, which counts"
        return raw._replace(notes=[*raw.notes, *([said] if turned else [])])
    order = pl.int_range(pl.len()).alias("time")
    return columns.interactions(
        table.with_columns(order), {"session": "session", "item": "item", "order": "time"}, where=file
    )


def _items(path: Path) -> tuple[pl.DataFrame, list[str]]:
    if ".csv" in path.suffixes:
        table, rejected = read_csv(path)
        return columns.items(table, Names(fixed=True), where=path), rejected
    rejected = []
    rows = [{key: _text(one) for key, one in value.items()} for _, value in lines.read(path, rejected)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pl.DataFrame(
        {name: [row.get(name) for row in rows] for name in names}, schema=dict.fromkeys(names, pl.String)
    )
    return columns.items(table, Names(fixed=True), where=path), rejected


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return None if value is None else str(value)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
