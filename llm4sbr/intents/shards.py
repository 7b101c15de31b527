"""Several shard files as one table: memory-mapped on first use, rows taken by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.errors import DamagedError, StoreError
from llm4sbr.intents.manifest import MANIFEST, Shapes, again


class Shards:
    """All shards of one kind, for reading.

    Args:
        folder: folder of the shards.
        entries: their entries in the manifest.
        shapes: the tensors that each must have.
    """

    def __init__(self, folder: Path, entries: Sequence[dict[str, Any]], shapes: Shapes) -> None:
        self.folder = folder
        self.entries = entries
        self.shapes = shapes
        self.ends = torch.tensor([entry["rows"] for entry in entries], dtype=torch.int64).cumsum(0)
        """int64 (shards,): for each shard, the number of the first row after it."""
        self._firsts = self.ends - torch.tensor([entry["rows"] for entry in entries], dtype=torch.int64)
        self._mapped: list[dict[str, Tensor] | None] = [None] * len(entries)

    def __len__(self) -> int:
        """Number of rows of all shards."""
        return int(self.ends[-1]) if self.entries else 0

    def first(self, shard: int) -> int:
        """Number of a shard's first row."""
        return int(self._firsts[shard])

    def mapped(self, shard: int) -> dict[str, Tensor]:
        """The tensors of a shard, memory-mapped.

        Raises:
            StoreError: the file is not the shard that the manifest lists.
        """
        found = self._mapped[shard]
        if found is None:
            found = self._mapped[shard] = self._read(self.entries[shard])
        return found

    def take(self, name: str, rows: Tensor) -> Tensor:
        """Rows int64 (n,) of the tensor `name`, in its stored dtype."""
        if len(self.entries) == 1:
            return self.mapped(0)[name].index_select(0, rows)
        shard = torch.searchsorted(self.ends, rows, right=True)
        order = shard.argsort(stable=True)
        local = (rows - self._firsts[shard])[order].numpy()
        dtype, shape = self.shapes[name]
        found = torch.empty(len(rows), *shape, dtype=dtype)
        # NumPy, because its call overhead is a quarter of PyTorch's, and there may be one call per row
        sorted_rows = found.numpy()
        for number, start, end in spans(shard):
            part = sorted_rows[start:end]
            self.mapped(number)[name].numpy().take(local[start:end], axis=0, out=part, mode="clip")
        return found[_inverse(order)]

    def verify(self) -> None:
        """Read every shard and compare its hash; raises `StoreError` if one is missing or has changed."""
        for entry in self.entries:
            self._verify(entry)

    def _verify(self, entry: dict[str, Any]) -> None:
        path = self.folder / entry["file"]
        if store.file_sha256(path) != entry["sha256"]:
            raise DamagedError(
                f"{path}: changed since it was written (its sha256 differs); {again(self.folder)}"
            )

    def _read(self, entry: dict[str, Any]) -> dict[str, Tensor]:
        path = self.folder / entry["file"]
        self._verify(entry)
        tensors = store.read_tensors(path)
        expected = {name: (dtype, (entry["rows"], *shape)) for name, (dtype, shape) in self.shapes.items()}
        if {name: (one.dtype, tuple(one.shape)) for name, one in tensors.items()} != expected:
            raise StoreError(f"{path}: not the shard that {MANIFEST} lists; {again(self.folder)}")
        return tensors


def spans(numbers: Tensor) -> Iterator[tuple[int, int, int]]:
    """For each distinct number in int64 (n,), not negative: the number, and its begin and end once sorted."""
    end = 0
    for number, count in enumerate(torch.bincount(numbers).tolist()):
        start, end = end, end + count
        if count:
            yield number, start, end


def _inverse(order: Tensor) -> Tensor:
    """The inverse of a permutation int64 (n,)."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
