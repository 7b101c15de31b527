"""Intents on disk: safetensors shards and a manifest, keyed by sample.

    intents-00000.safetensors   keys int64 (m,) ascending, intents float16 (m, P, E),
    intents-00001.safetensors   items int32 (m, P, F), weights float32 (m, P, F)
    manifest.json               what they were made from, and each shard's rows and sha256; written last

Every shard's keys are above those of the shard before, so all keys together are one sorted list, and a row
number counts through the shards. Shards are memory-mapped: opening reads the keys only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.errors import StoreError

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the shards' and the manifest's layout."""
ROWS = 65_536
"""Rows per shard: about 100 MB with two perspectives of 384 dimensions."""
TYPES = {"keys": torch.int64, "intents": torch.float16, "items": torch.int32, "weights": torch.float32}


class IntentWriter:
    """Writes the intents of one source, in ascending order of their keys.

    Args:
        folder: made if missing; what an interrupted attempt left in it is removed.
        perspectives: their names, P of them.
        about: what the intents were made from, for the manifest: at least `catalogue`, the catalogue's hash.
        rows: rows per shard.
    """

    def __init__(
        self,
        folder: Path,
        perspectives: Sequence[str],
        *,
        about: Mapping[str, Any],
        rows: int = ROWS,
    ) -> None:
        self.folder = folder
        self.about = {"perspectives": list(perspectives), **about}
        self.rows = rows
        self._shards: list[dict[str, Any]] = []
        self._last: int | None = None
        self._pending: list[Tensor] | None = None
        with store.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in [folder / MANIFEST, *folder.glob("intents-*.safetensors")]:
                path.unlink(missing_ok=True)

    def add(self, keys: Tensor, intents: Tensor, items: Tensor, weights: Tensor) -> None:
        """Add m rows, m may be 0; a shard is written whenever there are enough. The first call fixes E and F.

        Args:
            keys: int64 (m,), strictly ascending and above all keys written before.
            intents: float (m, P, E); kept as float16.
            items: integer (m, P, F), catalogue ids, 0 for none.
            weights: float (m, P, F).

        Raises:
            StoreError: keys out of order, a value that float16 cannot hold, or a file that cannot be written.
        """
        order = torch.cat([keys.new_tensor([] if self._last is None else [self._last]), keys])
        if (order[1:] <= order[:-1]).any():  # no difference: it could overflow
            raise StoreError(f"{self.folder}: keys must be written in strictly ascending order")
        half = intents.half()
        if not half.isfinite().all():
            raise StoreError(f"{self.folder}: an intent holds a value that is not finite in float16")
        parts = [keys.long(), half, items.int(), weights.float()]
        self._last = int(keys[-1]) if len(keys) else self._last
        if self._pending:
            parts = [torch.cat(pair) for pair in zip(self._pending, parts, strict=True)]
        self._pending = parts
        while len(self._pending[0]) >= self.rows:
            self._write_shard(self._pending)

    def close(self, statistics: Mapping[str, Any] = {}) -> None:
        """Write what is left and the manifest; without one the folder counts as unfinished."""
        pending = self._pending or [torch.zeros(0, 0, 0)] * len(TYPES)
        dim, f = pending[1].shape[2], pending[2].shape[2]
        if len(pending[0]):
            self._write_shard(pending)
        content = {
            "format": FORMAT,
            **self.about,
            "dim": dim,
            "f": f,
            "dtype": "float16",
            "statistics": dict(statistics),
            "shards": self._shards,
        }
        store.write_json(self.folder / MANIFEST, content)

    def _write_shard(self, pending: list[Tensor]) -> None:
        path = self.folder / f"intents-{len(self._shards):05}.safetensors"
        tensors = {name: part[: self.rows] for name, part in zip(TYPES, pending, strict=True)}
        store.write_tensors(path, tensors)
        rows = len(tensors["keys"])
        self._shards.append({"file": path.name, "rows": rows, "sha256": store.file_sha256(path)})
        self._pending = [part[rows:] for part in pending]


class _Shard(NamedTuple):
    first: int
    """Row number of its first row."""
    tensors: dict[str, Tensor]


class IntentStore:
    """The intents of one source, opened for reading with `IntentStore.open`."""

    def __init__(self, folder: Path, manifest: dict[str, Any], shards: list[dict[str, Tensor]]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.perspectives: list[str] = manifest["perspectives"]
        """Their names, in the order of axis P."""
        self.catalogue_hash: str = manifest["catalogue"]
        """`catalogue_hash` of the items that the intents are tied to."""
        self.keys = torch.cat([torch.zeros(0, dtype=torch.int64), *(shard["keys"] for shard in shards)])
        """int64 (M,), ascending."""
        firsts = torch.tensor([0] + [len(shard["keys"]) for shard in shards]).cumsum(0).tolist()
        self._shards = [_Shard(first, shard) for first, shard in zip(firsts, shards, strict=False)]
        self.dim: int = manifest["dim"]
        """E."""
        self.f: int = manifest["f"]
        """F, items per answer."""

    @classmethod
    def open(cls, folder: Path) -> IntentStore:
        """Open what an `IntentWriter` closed.

        Raises:
            StoreError: a file is missing, truncated, foreign, of another version, or does not fit the others.
        """
        manifest = store.read_json(folder / MANIFEST)
        try:
            if manifest["format"] != FORMAT:
                raise StoreError(
                    f"{folder / MANIFEST}: format {manifest['format']}, this version reads {FORMAT}; "
                    f"delete {folder} and run localize again"
                )
            opened = cls(
                folder, manifest, [_read_shard(folder, entry, manifest) for entry in manifest["shards"]]
            )
        except (KeyError, TypeError):
            raise StoreError(
                f"{folder / MANIFEST}: not a manifest of intents; delete {folder} and run localize again"
            ) from None
        if (opened.keys[1:] <= opened.keys[:-1]).any():
            raise StoreError(f"{folder}: its shards do not belong together; delete it and run localize again")
        return opened

    def __len__(self) -> int:
        """M, the samples whose answers are here."""
        return len(self.keys)

    def rows(self, keys: Tensor) -> Tensor:
        """Row numbers int64 (M,) of sample keys int64 (M,); -1 where a key is unknown."""
        if not len(self.keys):
            return torch.full_like(keys, -1)
        found = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[found] == keys, found, -1)

    def gather(self, rows: Tensor) -> Tensor:
        """Intents float32 (B, P, E) of row numbers int64 (B,); zero where a row is -1."""
        return self._gather("intents", rows, torch.float32)

    def located(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Items int64 (B, P, F), best first, and their weights float32 (B, P, F); 0 where a row is -1."""
        return self._gather("items", rows, torch.int64), self._gather("weights", rows, torch.float32)

    def verify(self) -> None:
        """Read everything and compare it with the manifest.

        Raises:
            StoreError: a shard is missing or a byte of it has changed.
        """
        for entry in self.manifest["shards"]:
            path = self.folder / entry["file"]
            if store.file_sha256(path) != entry["sha256"]:
                raise StoreError(
                    f"{path}: changed since it was written (its sha256 differs); "
                    f"delete {self.folder} and run localize again"
                )

    def _gather(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        if len(rows) and int(rows.max()) >= len(self):
            raise IndexError(f"row {int(rows.max())} of {self.folder}, which has {len(self)} rows")
        width = self.dim if name == "intents" else self.f
        result = torch.zeros(len(rows), len(self.perspectives), width, dtype=dtype)
        for first, tensors in self._shards:
            source = tensors[name]
            here = ((rows >= first) & (rows < first + len(source))).nonzero().squeeze(1)
            if len(here) == len(rows) > 0:
                return source[rows - first].to(dtype)
            if len(here):
                result[here] = source[rows[here] - first].to(dtype)
        return result


def _read_shard(folder: Path, entry: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / entry["file"]
    tensors = store.read_tensors(path)
    head = (entry["rows"], len(manifest["perspectives"]))
    located = (*head, manifest["f"])
    shapes = {"keys": head[:1], "intents": (*head, manifest["dim"]), "items": located, "weights": located}
    if {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} != {
        name: (TYPES[name], shape) for name, shape in shapes.items()
    }:
        raise StoreError(f"{path}: not the shard that {MANIFEST} lists; delete its folder and localize again")
    return tensors
