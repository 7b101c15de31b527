"""Toy data with a known rule: item i is always followed by item i + 1, and item N by item 1."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from llm4sbr.protocols import Catalogue, Sessions

_COLOURS = ("Red", "Blue", "Green", "White", "Black")
_THINGS = ("Lamp", "Chair", "Table", "Clock", "Mirror", "Shelf", "Vase", "Rug")
_START = 1_000_000_000
_DAY = 86_400


def toy_log(
    folder: Path,
    *,
    items: int = 20,
    sessions: int = 60,
    length: int = 6,
    clock: bool = True,
) -> Path:
    """Write `interactions.csv` and `items.csv` into `folder` (created if missing) and return it.

    Every session has its own user and its own day; its clicks are one minute apart. Sessions have `length`,
    `length + 1` or `length + 2` clicks. With `clock=False` there is a column `order` instead of `timestamp`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    walks = _walks(items, sessions, length)
    rows = [
        (f"u{s:03}", f"i{item:02}", _START + s * _DAY + place * 60 if clock else place)
        for s, walk in enumerate(walks)
        for place, item in enumerate(walk)
    ]
    _write(folder / "interactions.csv", ("user_id", "item_id", "timestamp" if clock else "order"), rows)
    catalogue = toy_catalogue(items)
    columns = [catalogue.keys, catalogue.titles, *catalogue.attributes.values()]
    _write(
        folder / "items.csv", ("item_id", "title", *catalogue.attributes), list(zip(*columns, strict=True))
    )
    return folder


def toy_clicks(*, items: int = 20, sessions: int = 60, length: int = 6) -> dict[str, list[str]]:
    """The clicks of `toy_log`: user -> item keys, oldest first."""
    walks = _walks(items, sessions, length)
    return {f"u{s:03}": [f"i{item:02}" for item in walk] for s, walk in enumerate(walks)}


def toy_sessions(*, items: int = 20, sessions: int = 60, length: int = 6) -> Sessions:
    """The sessions of `toy_log`, with catalogue ids 1..items."""
    walks = _walks(items, sessions, length)
    offsets = torch.tensor([0, *map(len, walks)]).cumsum(0)
    return Sessions(torch.tensor([item for walk in walks for item in walk]), offsets)


def toy_catalogue(items: int = 20) -> Catalogue:
    """At most 40 items with keys `i01`, `i02` ..., titles such as `Red Lamp (1990)` and a `category`."""
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(items)]
    things = [_THINGS[i % len(_THINGS)] for i in range(items)]
    titles = [f"{c} {t} ({1990 + i % 30})" for i, (c, t) in enumerate(zip(colours, things, strict=True))]
    return Catalogue([f"i{i + 1:02}" for i in range(items)], titles, {"category": things})


def _walks(items: int, sessions: int, length: int) -> list[list[int]]:
    """Catalogue ids per session; first items are spread so that all items occur about equally often."""
    return [[(s * 7 + place) % items + 1 for place in range(length + s % 3)] for s in range(sessions)]


def _write(path: Path, header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
