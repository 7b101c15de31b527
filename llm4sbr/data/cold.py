"""Items that are held out: the newest ones, of which no click is trained or validated on (`data.hold_out`).

They stand for products that come into a shop after the training. A test sample on them is a click on one in a
test session, behind at least one click on an item that the model knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from llm4sbr import store
from llm4sbr.data.sessions import ClickLog, Ints, Mask
from llm4sbr.errors import StoreError
from llm4sbr.protocols import Catalogue

SAMPLES, ITEMS = "cold.parquet", "cold_items.parquet"


class Cold(NamedTuple):
    """Test samples on held-out items."""

    prefixes: list[list[int]]
    """Positions in `ClickLog.keys`, or catalogue ids, of the known items clicked before, oldest first."""
    targets: list[int]
    """Positions in `ClickLog.keys`."""


def held_out(log: ClickLog, share: float, *, least: int) -> Mask:
    """Bool (keys,): of the items with at least `least` clicks the share whose first click is the latest."""
    held = np.zeros(len(log.keys), np.bool_)
    first = np.full(len(log.keys), np.inf)
    np.minimum.at(first, log.items, log.start[log.owner])
    often = np.flatnonzero(np.bincount(log.items, minlength=len(held)) >= max(least, 1))
    order = often[np.argsort(-first[often], kind="stable")]
    held[order[: round(share * len(often))]] = True
    return held


def samples_of(test: ClickLog, known: Mask, held: Mask, *, longest: int) -> Cold:
    """The samples of test sessions, with at most `longest` clicks."""
    prefixes, targets = [], []
    owner = test.owner
    for place in np.flatnonzero(held[test.items]):
        before = test.items[test.offsets[owner[place]] : place]
        before = before[known[before]][-longest:]
        if len(before):
            prefixes.append(before.tolist())
            targets.append(int(test.items[place]))
    return Cold(prefixes, targets)


def save(folder: Path, cold: Cold, keys: pl.Series, ids: Ints, items: Catalogue) -> None:
    """Write the samples and the items.

    Args:
        folder: of `prepare`.
        cold: the samples.
        keys: of the log.
        ids: int64 (keys,), the catalogue id of each.
        items: the held-out items.
    """
    prefixes = [ids[prefix].tolist() for prefix in cold.prefixes]
    table = {"prefix": pl.Series(prefixes, dtype=pl.List(pl.Int64)), "key": keys[cold.targets]}
    store.write_table(folder / SAMPLES, pl.DataFrame(table))
    columns = {"key": items.keys, "title": items.titles, **items.attributes}
    store.write_table(folder / ITEMS, pl.DataFrame(columns))


def load(folder: Path) -> tuple[list[list[int]], list[str], Catalogue]:
    """Prefixes (catalogue ids) and target keys of the samples, and the held-out items.

    Raises:
        StoreError: nothing was held out.
    """
    if not (folder / SAMPLES).exists():
        raise StoreError(
            f"{folder}: no items were held out; begin a run with --set data.hold_out=0.05, which trains on "
            "no click on the newest 5% of the items"
        )
    samples, items = store.read_table(folder / SAMPLES), store.read_table(folder / ITEMS)
    names = [name for name in items.columns if name not in ("key", "title")]
    attributes = {name: items[name].to_list() for name in names}
    catalogue = Catalogue(items["key"].to_list(), items["title"].to_list(), attributes)
    return samples["prefix"].to_list(), samples["key"].to_list(), catalogue
