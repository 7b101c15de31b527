"""Saves and loads the output of the stage `prepare`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from llm4sbr import store
from llm4sbr.data.mapped import mapped
from llm4sbr.errors import DamagedError, StoreError
from llm4sbr.protocols import Catalogue, Samples, Sessions

AT_ONCE = 100_000
"""Number of sessions read at a time."""

SPLITS = ("train", "valid", "test")
ITEMS, SESSIONS, TENSORS, STATS = "items.parquet", "sessions.parquet", "splits.safetensors", "stats.json"


class Prepared(NamedTuple):
    """The data of a run, as the later stages use it."""

    catalogue: Catalogue
    sessions: Sessions
    """The sessions of all splits; the positions of the samples refer to these."""
    train: Sessions
    """The training sessions, which are all that the `fit` methods of components get."""
    samples: dict[str, Samples]
    """By split: `train`, `valid` (may be empty), `test`."""
    stats: dict[str, Any]
    """The content of `stats.json`."""

    @property
    def repeats(self) -> bool:
        """Whether lists may contain the session's own items; true for data of earlier versions."""
        return bool(self.stats.get("rules", {}).get("repeats", True))

    def prefix(self, samples: Samples, index: int) -> list[int]:
        """Catalogue ids of one sample's prefix, oldest first."""
        return self.sessions.items[int(samples.start[index]) : int(samples.end[index])].tolist()


def catalogue_hash(catalogue: Catalogue) -> str:
    """sha256 (hex) of keys, titles and attributes, in order."""
    content = [catalogue.keys, catalogue.titles, catalogue.attributes]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def save(folder: Path, prepared: Prepared, *, names: pl.Series, times: pl.Series) -> None:
    """Write all files into `folder`; `stats.json` is written last and contains the sha256 of the others.

    Args:
        folder: an existing folder.
        prepared: what to write; its `stats` go into `stats.json`.
        names: str, the name of each session.
        times: Float64, the time of each session's first click.
    """
    catalogue, sessions = prepared.catalogue, prepared.sessions
    ids = pl.Series("id", range(1, catalogue.size + 1), pl.Int64)
    columns = {"id": ids, "key": catalogue.keys, "title": catalogue.titles, **catalogue.attributes}
    store.write_table(folder / ITEMS, pl.DataFrame(columns))
    table = pl.DataFrame({"session": names, "time": times, "items": _lists(sessions)})
    store.write_table(folder / SESSIONS, table)
    tensors = {
        f"{split}.{field}": value
        for split in SPLITS
        for field, value in prepared.samples[split]._asdict().items()
    }
    tensors |= {"train.items": prepared.train.items, "train.offsets": prepared.train.offsets}
    store.write_tensors(folder / TENSORS, tensors)
    files = {name: store.file_sha256(folder / name) for name in (ITEMS, SESSIONS, TENSORS)}
    store.write_json(folder / STATS, {**prepared.stats, "files": files})


def load(folder: Path) -> Prepared:
    """Read what `save` wrote.

    Raises:
        StoreError: a file is missing, damaged, or was not written by `prepare`.
    """
    stats = store.read_json(folder / STATS)
    files = stats.get("files") if isinstance(stats, Mapping) else None
    if not isinstance(files, Mapping) or set(files) != {ITEMS, SESSIONS, TENSORS}:
        raise StoreError(f"{folder / STATS}: not written by prepare; run prepare again")
    for name, expected in files.items():
        if store.file_sha256(folder / name) != expected:
            raise DamagedError(
                f"{folder / name}: not the file that prepare wrote (its sha256 differs); run prepare again"
            )
    items = store.read_table(folder / ITEMS)
    tensors = store.read_tensors(folder / TENSORS)
    names = [name for name in items.columns if name not in ("id", "key", "title")]
    return Prepared(
        Catalogue(items["key"].to_list(), items["title"].to_list(), {n: items[n].to_list() for n in names}),
        _sessions(folder / SESSIONS),
        Sessions(tensors["train.items"], tensors["train.offsets"]),
        {split: Samples(*(tensors[f"{split}.{field}"] for field in Samples._fields)) for split in SPLITS},
        dict(stats),
    )


def _lists(sessions: Sessions) -> pl.Series:
    lengths = sessions.offsets.diff()
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    flat = pl.DataFrame({"session": owner.numpy(), "items": sessions.items.numpy()})
    return flat.group_by("session", maintain_order=True).agg("items")["items"]


def _sessions(path: Path) -> Sessions:
    """The sessions of a Parquet file, read in parts into memory-mapped tensors."""

    def clicks() -> Iterator[NDArray[np.int64]]:
        for part in store.read_parts(path, "items", AT_ONCE):
            yield part.list.explode(empty_as_null=False).cast(pl.Int64).to_numpy()

    def offsets() -> Iterator[NDArray[np.int64]]:
        last = np.zeros(1, np.int64)
        yield last
        for part in store.read_parts(path, "items", AT_ONCE):
            ends = part.list.len().cast(pl.Int64).to_numpy().cumsum() + last
            yield ends
            last = ends[-1:]

    return Sessions(mapped(clicks()), mapped(offsets()))
