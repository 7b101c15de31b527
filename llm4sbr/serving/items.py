"""The catalogue's keys and titles in an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.names import NAMES, open_names

ITEMS = "items.json"


def catalogue_of(folder: Path, record: Mapping[str, Any]) -> Catalogue:
    """Keys and titles of an artefact; `StoreError` if they are not those of its record."""
    size = record["num_items"]
    large = NAMES in record["files"]
    return open_names(folder / NAMES, size) if large else read_items(folder / ITEMS, size)


def write_items(path: Path, catalogue: Catalogue) -> None:
    """Write the catalogue's keys and titles as two lists, in the order of ids."""
    store.write_json(path, {"key": list(catalogue.keys), "title": list(catalogue.titles)})


def read_items(path: Path, size: int) -> Catalogue:
    """Keys and titles written by `write_items`; `StoreError` if there are not `size` of them."""
    content = store.read_json(path)
    columns: dict[str, Any] = content if isinstance(content, dict) else {}
    for name in ("key", "title"):
        column = columns.get(name)
        if not isinstance(column, list) or len(column) != size:
            found = f"{len(column)} of them" if isinstance(column, list) else "none"
            raise StoreError(f"{path}: {name}: {found}, artefact.json says {size} items; export again")
        if not all(isinstance(one, str) for one in column):
            raise StoreError(f"{path}: {name}: an item has none, or one that is no text; export again")
    return Catalogue(columns["key"], columns["title"])
