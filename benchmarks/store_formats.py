"""File formats for one vector per sample: how each writes a file, opens it and gathers rows.

After opening, rows can be gathered; a format may read the whole file for that.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from llm4sbr.intents import IntentStore, IntentWriter

Gather = Callable[[Tensor], Tensor]
"""Rows int64 (B,) -> vectors float32 (B, E)."""


class Format(NamedTuple):
    """A file format for keys int64 (M,) and vectors float32 (M, E)."""

    title: str
    write: Callable[[Path, Tensor, Tensor], None]
    open: Callable[[Path], Gather]


def _write_store(folder: Path, keys: Tensor, vectors: Tensor) -> None:
    writer = IntentWriter(folder / "store", ["long"], about={"catalogue": ""})
    none = torch.zeros(len(keys), 1, 0)
    writer.add(keys, vectors.unsqueeze(1), none, none)
    writer.close()


def _open_store(folder: Path) -> Gather:
    store = IntentStore.open(folder / "store")
    return lambda rows: store.gather(rows).squeeze(1)


def _write_lists(folder: Path, keys: Tensor, vectors: Tensor) -> None:
    with (folder / "lists.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        for key, vector in zip(keys.tolist(), vectors, strict=True):
            table.writerow([key, f"[{', '.join(f'{value:.8g}' for value in vector.tolist())}]"])


def _read_lists(folder: Path) -> list[str]:
    with (folder / "lists.csv").open(newline="", encoding="utf-8") as stream:
        return [text for _, text in csv.reader(stream)]


def _parsed(texts: Sequence[str]) -> Tensor:
    return torch.tensor([ast.literal_eval(text) for text in texts])


def _open_lists(folder: Path) -> Gather:
    vectors = _parsed(_read_lists(folder))
    return lambda rows: vectors[rows]


def _open_lists_late(folder: Path) -> Gather:
    texts = _read_lists(folder)
    return lambda rows: _parsed([texts[row] for row in rows.tolist()])


def _table(keys: Tensor, vectors: Tensor) -> pl.DataFrame:
    columns = {f"v{place}": column for place, column in enumerate(vectors.numpy().T)}
    return pl.DataFrame({"key": keys.numpy(), **columns})


def _write_csv(folder: Path, keys: Tensor, vectors: Tensor) -> None:
    _table(keys, vectors).write_csv(folder / "numbers.csv")


def _open_csv(folder: Path) -> Gather:
    table = pl.read_csv(folder / "numbers.csv", schema_overrides={"key": pl.Int64})
    vectors = torch.from_numpy(table.drop("key").to_numpy().astype(np.float32))
    return lambda rows: vectors[rows]


def _write_parquet(folder: Path, keys: Tensor, vectors: Tensor) -> None:
    column = pl.Series("vector", vectors.numpy(), dtype=pl.Array(pl.Float32, vectors.shape[1]))
    pl.DataFrame({"key": keys.numpy()}).with_columns(column).write_parquet(folder / "table.parquet")


def _open_parquet(folder: Path) -> Gather:
    vectors = torch.from_numpy(pl.read_parquet(folder / "table.parquet")["vector"].to_numpy().copy())
    return lambda rows: vectors[rows]


def _write_npy(folder: Path, keys: Tensor, vectors: Tensor) -> None:
    np.save(folder / "keys.npy", keys.numpy())
    np.save(folder / "vectors.npy", vectors.numpy())


def _open_npy(folder: Path) -> Gather:
    np.load(folder / "keys.npy", mmap_mode="r")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    return lambda rows: torch.from_numpy(vectors[rows.numpy()])


FORMATS = {
    "store": Format("intent store", _write_store, _open_store),
    "npy": Format("NPY, memory-mapped", _write_npy, _open_npy),
    "parquet": Format("Parquet", _write_parquet, _open_parquet),
    "csv": Format("CSV, a column per number", _write_csv, _open_csv),
    "lists": Format("text lists, parsed when loaded", _write_lists, _open_lists),
    "lists-late": Format("text lists, parsed per batch", _write_lists, _open_lists_late),
}
"""All formats; the others are compared with the first. Text lists imitate spreadsheets, without their XML."""


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
