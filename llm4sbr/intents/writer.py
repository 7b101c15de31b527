"""Writes intents in the order of their samples' keys, with at most one shard of each kind in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.intents.manifest import MANIFEST, write_manifest

SHARD = 2**26
"""Approximate size of a shard in bytes."""
REMEMBERED = 2**19
"""How many recent distinct intents (up to twice as many) are searched for an equal one. Each takes about 130
bytes, which bounds the memory."""


class IntentWriter:
    """Writes the intents of one source, in ascending order of their samples' keys.

    Equal intents are stored once if at most `remembered` other distinct intents lie between them.

    Args:
        folder: created if missing; leftovers of an interrupted attempt are removed.
        perspectives: names of the P perspectives.
        about: what the intents were made from, for the manifest; needs `catalogue`, the catalogue's hash.
        shard: approximate size of a shard in bytes.
        remembered: see above.
    """

    def __init__(
        self,
        folder: Path,
        perspectives: Sequence[str],
        *,
        about: Mapping[str, Any],
        shard: int = SHARD,
        remembered: int = REMEMBERED,
    ) -> None:
        self.folder = folder
        self.about = {"perspectives": list(perspectives), **about}
        self._keys = _Shards(folder, "keys", shard)
        self._intents = _Shards(folder, "intents", shard)
        self._known = _Known(remembered)
        self._last: int | None = None
        self._widths = (0, 0)
        with store.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in [folder / MANIFEST, *folder.glob("*.safetensors")]:
                path.unlink(missing_ok=True)

    def add(self, keys: Tensor, intents: Tensor, items: Tensor, weights: Tensor) -> None:
        """Add m samples (m may be 0); full shards are written to disk. E and F must be the same in all calls.

        Args:
            keys: int64 (m,), strictly ascending and above all keys added before.
            intents: float (m, P, E); stored as float16.
            items: integer (m, P, F), catalogue ids, 0 for none.
            weights: float (m, P, F); stored as float16.

        Raises:
            StoreError: keys out of order, a value that is not finite in float16, or a file that cannot be
                written.
        """
        rows = self.store(*(part.flatten(0, 1) for part in (intents, items, weights)))
        self.assign(keys, rows.reshape(len(keys), intents.shape[1]))

    def store(self, intents: Tensor, items: Tensor, weights: Tensor) -> Tensor:
        """Add n intents, each once; returns their numbers for `assign`, int32 (n,).

        Args:
            intents: float (n, E); stored as float16.
            items: integer (n, F).
            weights: float (n, F); stored as float16.

        Raises:
            StoreError: a value that is not finite in float16, or a file that cannot be written.
        """
        parts = [intents.half(), items.int(), weights.half()]
        if not parts[0].isfinite().all():
            raise StoreError(f"{self.folder}: an intent holds a value that is not finite in float16")
        self._widths = (intents.shape[1], items.shape[1])
        rows, fresh = self._known.numbers(parts)
        self._intents.add(dict(zip(("intents", "items", "weights"), (p[fresh] for p in parts), strict=True)))
        return rows

    def assign(self, keys: Tensor, rows: Tensor) -> None:
        """Add m samples with stored intents.

        Args:
            keys: int64 (m,), strictly ascending and above all keys added before.
            rows: int32 (m, P), numbers that `store` returned.

        Raises:
            StoreError: keys out of order, or a file that cannot be written.
        """
        order = torch.cat([keys.new_tensor([] if self._last is None else [self._last]), keys])
        if (order[1:] <= order[:-1]).any():  # compared, not subtracted, which could overflow
            raise StoreError(f"{self.folder}: keys must be written in strictly ascending order")
        self._last = int(keys[-1]) if len(keys) else self._last
        self._keys.add({"keys": keys.long(), "rows": rows})

    def close(self, statistics: Mapping[str, Any] = {}) -> None:
        """Write the remaining rows, then the manifest; without a manifest the folder counts as unfinished."""
        for shards in (self._keys, self._intents):
            shards.flush()
        dim, f = self._widths
        content = {
            **self.about,
            "dim": dim,
            "f": f,
            "dtype": "float16",
            "rows": self._keys.rows,
            "distinct": self._intents.rows,
            "statistics": dict(statistics),
            "keys": self._keys.entries,
            "shards": self._intents.entries,
        }
        write_manifest(self.folder, content)


class _Known:
    """Numbers distinct rows in the order in which they first occur."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}

    def numbers(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """For rows with the content `parts`, each (n, .): their numbers int32 (n,), and which are new."""
        bytes_of = torch.cat([part.contiguous().view(torch.uint8) for part in parts], 1).numpy()
        numbers, fresh = [], []
        for row, content in enumerate(bytes_of):
            digest = blake2b(content, digest_size=16).digest()
            number = self._young.get(digest)
            if number is None:
                number = self._old.get(digest)
                if number is None:
                    number = self._count
                    self._count += 1
                    fresh.append(row)
                self._remember(digest, number)
            numbers.append(number)
        return torch.tensor(numbers, dtype=torch.int32), torch.tensor(fresh, dtype=torch.int64)

    def _remember(self, digest: bytes, number: int) -> None:
        """Add to the recent ones; when these are full, they replace the older ones."""
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[digest] = number


class _Shards:
    """The shards of one kind while they are being written."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.folder = folder
        self.name = name
        self.size = size
        self.entries: list[dict[str, Any]] = []
        """Entries of the finished shards for the manifest."""
        self.rows = 0
        """Number of rows added, including those not yet written."""
        self._blocks: list[Mapping[str, Tensor]] = []
        self._waiting = 0

    def add(self, block: Mapping[str, Tensor]) -> None:
        """Add tensors with equal numbers of rows, and write full shards."""
        count, size = _size(block)
        self.rows += count
        self._waiting += count
        self._blocks.append(block)
        if count:
            most = max(1, self.size // max(1, size // count))
            while self._waiting >= most:
                self._write(most)

    def flush(self) -> None:
        """Write the remaining rows."""
        if self._waiting:
            self._write(self._waiting)

    def _write(self, rows: int) -> None:
        path = self.folder / f"{self.name}-{len(self.entries):05}.safetensors"
        blocks, self._blocks = self._blocks, []
        whole = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        del blocks  # so that the shard is in memory only once while it is written
        tensors = {name: part[:rows] for name, part in whole.items()}
        store.write_tensors(path, tensors)
        entry = {"file": path.name, "rows": rows, "bytes": path.stat().st_size}
        if "keys" in tensors:
            entry["last"] = int(tensors["keys"][-1])
        self.entries.append(entry | {"sha256": store.file_sha256(path)})
        self._blocks = [{name: part[rows:].clone() for name, part in whole.items()}]
        self._waiting -= rows


def _size(block: Mapping[str, Tensor]) -> tuple[int, int]:
    """Number of rows, and bytes."""
    parts = list(block.values())
    return len(parts[0]), sum(part.numel() * part.element_size() for part in parts)
