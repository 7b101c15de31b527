"""Reader `jsonl`: finished sessions, one JSON object per line.

`sessions.jsonl`: `{"session": "a1", "items": ["i3", "i7"], "time": 1700000000}`. `items` are oldest first.
`time` is the session's start in seconds since 1970 (its clicks then count as one second apart) or a list with
one time per click; if no line has it, sessions have an order but no time. Titles come from `items.jsonl`
(`{"item": "i3", "title": "Red Lamp", "category": "Lamp"}`) or `items.csv` in the same folder, or from a list
`titles` in the session, as long as `items`. Instead of `items`, a session may have `events`, one object per
click with an item and a time under any name that the reader `csv` recognises, as in OTTO's log
(`{"session": 0, "events": [{"aid": 7, "ts": 1659304800025}]}`).

A file may also have a click per line, `{"user_id": "u1", "item_id": "i3", "timestamp": 1700000000}`: its
names are columns, which are recognised, or named by options, as those of `csv` are. In a folder it is
`interactions.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from llm4sbr.data.readers import columns, lines
from llm4sbr.data.readers.columns import ALIASES, Names, plain
from llm4sbr.data.readers.delimited import header, read_csv
from llm4sbr.data.readers.locations import Locations
from llm4sbr.data.readers.tables import read_tables
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

_SESSIONS = tuple(f"{name}.jsonl{packed}" for name in ("sessions", "interactions") for packed in ("", ".gz"))
_ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz")
_ITEMS = tuple(f"items{ending}" for ending in _ENDINGS)
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
        user, session, item, time, order, title, attributes, only, time_format: of a file with a click per
            line, as for the reader `csv`.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        items: Path | None = None,
        titles: bool = True,
        user: str | None = None,
        session: str | None = None,
        item: str | None = None,
        time: str | None = None,
        order: str | None = None,
        title: str | None = None,
        attributes: Sequence[str] | None = None,
        only: str | None = None,
        time_format: str | None = None,
    ) -> None:
        self.path = path
        self.items = items
        self.titles = titles
        self.names = Names(user, session, item, time, order, title, attributes, time_format, None, only)

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
        if _has_clicks(lines.header(file)):
            return self._clicks(file)
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

    def _clicks(self, file: Path) -> RawData:
        """Of a file with a click per line."""
        rejected: list[str] = []
        places = Locations(file, None, self._items_file(), self.titles, _ENDINGS, "jsonl")

        def load(path: Path, wanted: list[str] | None) -> pl.DataFrame:
            if ".csv" not in path.suffixes:
                return lines.table(path, wanted, rejected)
            table, bad = read_csv(path, wanted)
            rejected.extend(bad)
            return table

        def names_of(path: Path) -> list[str]:
            return header(path) if ".csv" in path.suffixes else lines.header(path)

        raw = read_tables(places, load, names_of, self.names)
        return raw._replace(rejected=rejected + raw.rejected)

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


def _has_clicks(names: Sequence[str]) -> bool:
    """Whether a file with these names has a click per line."""
    known = {*ALIASES["item"], *ALIASES["time"]}
    return not {"items", "events"} & set(names) and any(plain(name) in known for name in names)


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
    return columns.items(lines.table(path, None, rejected), Names(fixed=True), where=path), rejected


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
