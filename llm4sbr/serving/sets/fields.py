"""What is written about each session of a set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm4sbr.errors import InputError
from llm4sbr.serving.recommendation import Recommendation
from llm4sbr.serving.sets.read import SESSION, Row, are_clicks
from llm4sbr.serving.stream import json_of

ATTRIBUTES = "attributes"
"""Of the list's items, as far as they are known."""

FIELDS: dict[str, Callable[[Recommendation], Any]] = {
    "key": lambda found: [one.key for one in found.items],
    "id": lambda found: [one.id for one in found.items],
    "title": lambda found: [one.title for one in found.items],
    "score": lambda found: [one.score for one in found.items],
    SESSION: lambda found: [one.key for one in found.session],
    "left_out": lambda found: found.left_out,
    ATTRIBUTES: lambda found: [getattr(one, ATTRIBUTES) for one in found.items],
    "passing": lambda found: found.passing,
    "notes": lambda found: found.notes,
}
"""Name -> value: of the list, best first; the session's items as recognised, or its id in a file of clicks;
what no item is called; how many items pass filters; why a list is empty or is not made for the session."""

ROW, ERROR = "row", "error"
"""Further names: the row's number, and why it has no list."""

FILTERS = ("only", "without", "where")
"""Columns of the sessions' file that hold for a row alone, in the place of the command's own."""

DEFAULT = (ROW, "key", "score", "left_out", "notes", ERROR)


def parse(text: str | None, path: Path, columns: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The fields in a comma-separated text: `FIELDS`, `ROW`, `ERROR`, columns of the sessions' file.

    Args:
        text: by default `DEFAULT`, of a file of clicks also its sessions.
        path: the file, for the message.
        columns: its columns; None if they are not known.

    Raises:
        InputError: a field is unknown or named twice.
    """
    default = (ROW, SESSION, *DEFAULT[1:]) if are_clicks(columns or ()) else DEFAULT
    names = default if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(f"--fields: {name!r} is named twice")
        if columns is not None and name not in (*FIELDS, ROW, ERROR, *columns):
            raise _unknown(name, path, columns)
    if not names:
        raise InputError("--fields: none is named")
    return names


def others_of(fields: Sequence[str]) -> list[str]:
    """The fields that come from the sessions' file."""
    return [name for name in fields if name not in (*FIELDS, ROW, ERROR)]


def check_objects(fields: Sequence[str], path: Path, rows: Sequence[Row]) -> None:
    """Raise `InputError` if no line of JSON among the first ones has a field."""
    there = {name for row in rows for name in row.others}
    missing = [name for name in others_of(fields) if name not in there]
    if missing:
        raise _unknown(missing[0], path, sorted(there))


def own_filters(row: Row) -> dict[str, Any]:
    """The filters of a row, lists in JSON as such."""
    given = {name: row.others[name] for name in FILTERS if row.others.get(name) not in (None, "")}
    return {name: (isinstance(value, str) and json_of(value, "[")) or value for name, value in given.items()}


def record(fields: Sequence[str], row: Row, found: Recommendation | InputError) -> dict[str, Any]:
    """What is written about a row; a field that it does not have is None."""
    if isinstance(found, InputError):
        known = {ROW: row.number, ERROR: " ".join(str(found).split())} | row.others
        return {name: known.get(name) for name in fields}
    return {name: _value(name, row, found) for name in fields}


def _value(name: str, row: Row, found: Recommendation) -> Any:
    if name in row.others:  # also the session that clicks are of
        return row.others[name]
    return row.number if name == ROW else FIELDS[name](found) if name in FIELDS else None


def _unknown(name: str, path: Path, columns: Mapping[str, Any] | Sequence[str]) -> InputError:
    known = ", ".join((ROW, *FIELDS, ERROR))
    return InputError(f"--fields: no {name!r}; there are {known}, and of {path}: {', '.join(columns)}"[:500])
