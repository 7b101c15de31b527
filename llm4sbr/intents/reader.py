"""Reads intents by sample key; opening them only reads the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.data.batches import item_keys, prefix_key
from llm4sbr.errors import DamagedError, StoreError
from llm4sbr.intents.manifest import MANIFEST, again, intent_shapes, key_shapes, read_manifest
from llm4sbr.intents.shards import Shards, spans
from llm4sbr.protocols import Samples, Sessions, Unit


class IntentStore:
    """The intents of one source; open them with `IntentStore.open`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.perspectives: list[str] = manifest["perspectives"]
        """Names of the perspectives, in the order of axis P."""
        self.catalogue_hash: str = manifest["catalogue"]
        """`catalogue_hash` of the catalogue that the intents refer to."""
        self.dim: int = manifest["dim"]
        """E."""
        self.f: int = manifest["f"]
        """F, items per answer."""
        self.unit: Unit = manifest.get("unit", "session")
        """What the rows are about: sessions, or items, of which each is a session of one click."""
        self._samples = Shards(folder, manifest["keys"], key_shapes(len(self.perspectives)))
        self._intents = Shards(folder, manifest["shards"], intent_shapes(self.dim, self.f))
        self._last = torch.tensor([entry["last"] for entry in manifest["keys"]], dtype=torch.int64)

    @classmethod
    def open(cls, folder: Path) -> IntentStore:
        """Open the folder that an `IntentWriter` wrote; only `verify` checks every byte.

        Raises:
            StoreError: a file is missing or has another size, or the manifest is damaged or of another
                version.
        """
        return cls(folder, read_manifest(folder))

    def __len__(self) -> int:
        """M, the number of samples."""
        return len(self._samples)

    @property
    def distinct(self) -> int:
        """Number of distinct intents."""
        return len(self._intents)

    @property
    def bytes(self) -> int:
        """Size of all shards in bytes."""
        return sum(entry["bytes"] for part in (self._samples, self._intents) for entry in part.entries)

    @property
    def shards(self) -> int:
        """Number of shard files."""
        return len(self._samples.entries) + len(self._intents.entries)

    @cached_property
    def keys(self) -> Tensor:
        """int64 (M,), ascending: the key of every row. Unlike `rows`, this reads all of them."""
        parts = [self._samples.mapped(shard)["keys"] for shard in range(len(self._samples.entries))]
        return parts[0] if len(parts) == 1 else torch.cat([torch.zeros(0, dtype=torch.int64), *parts])

    def rows(self, keys: Tensor) -> Tensor:
        """Row numbers int64 (M,) of sample keys int64 (M,); -1 where a key is unknown."""
        keys = keys.contiguous()
        found = torch.full_like(keys, -1)
        shard = torch.searchsorted(self._last, keys)
        order = shard.argsort()
        for number, start, end in spans(shard):
            if number < len(self._last):
                here = order[start:end]
                own, asked = self._samples.mapped(number)["keys"], keys[here]
                place = torch.searchsorted(own, asked)
                found[here] = torch.where(own[place] == asked, place + self._samples.first(number), -1)
        return found

    def rows_of(self, sessions: Sessions, samples: Samples) -> Tensor:
        """Row numbers int64 (M,) of samples, or of their last items; -1 where there is none."""
        about_items = self.unit == "item"
        return self.rows(item_keys(sessions.items[samples.end - 1]) if about_items else samples.key)

    def row(self, ids: Sequence[int]) -> int:
        """Row number of one session, or of its last item, by catalogue ids, oldest first; -1 if unknown."""
        key = prefix_key(ids[-1:] if self.unit == "item" else ids)
        return int(self.rows(torch.tensor([key]))[0])

    def by_item(self, size: int) -> Tensor:
        """Intents float32 (N, P, E) of all items of a catalogue of `size`, where the rows are about items."""
        return self.gather(self.rows(item_keys(torch.arange(1, size + 1))))

    def gather(self, rows: Tensor) -> Tensor:
        """Intents float32 (B, P, E) of row numbers int64 (B,); zeros where a row is -1."""
        numbers = self._numbers(rows)
        return self._take("intents", numbers, rows).float()

    def located(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Items int64 (B, P, F), best first, and their weights float32 (B, P, F); 0 where a row is -1."""
        numbers = self._numbers(rows)
        return self._take("items", numbers, rows).long(), self._take("weights", numbers, rows).float()

    def stored(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct intents as stored, by numbers int64 (n,): vectors (n, E), items and weights (n, F)."""
        take = self._intents.take
        return take("intents", numbers), take("items", numbers), take("weights", numbers)

    def verify(self, *, catalogue: str | None = None) -> None:
        """Read everything and compare it with the manifest.

        Args:
            catalogue: hash of the expected catalogue.

        Raises:
            StoreError: a shard is missing or has changed, or the intents are for another catalogue.
        """
        for part in (self._samples, self._intents):
            part.verify()
        if catalogue is not None and self.catalogue_hash != catalogue:
            raise StoreError(
                f"{self.folder}: made for another catalogue than {self.folder.parent.parent / 'prepare'}; "
                f"{again(self.folder)}"
            )

    def _numbers(self, rows: Tensor) -> Tensor:
        """Rows int64 (B,) -> numbers of their distinct intents, int64 (B * P,); arbitrary for a row of -1."""
        if len(rows) and int(rows.max()) >= len(self):
            raise IndexError(f"row {int(rows.max())} of {self.folder}, which has {len(self)} rows")
        if not len(self):
            return torch.zeros(0, dtype=torch.int64)
        return self._samples.take("rows", rows.clamp_min(0)).flatten().long()

    def _take(self, name: str, numbers: Tensor, rows: Tensor) -> Tensor:
        width = self.dim if name == "intents" else self.f
        shape = (len(rows), len(self.perspectives), width)
        if not len(self):
            return torch.zeros(shape)
        found = self._intents.take(name, numbers).view(len(rows), shape[1] * width)
        return found.index_fill_(0, (rows < 0).nonzero().squeeze(1), 0).view(shape)


def sources_of(localize: Path) -> list[str]:
    """Whose intents a run has, the LLM's first: those that were asked for last, if the stage was finished."""
    summary = localize / "localize.json"
    if summary.exists():
        names = set(store.read_json(summary).get("sources", {}))
    else:
        names = {path.parent.name for path in localize.glob(f"*/{MANIFEST}")}
    return sorted(names, key=lambda name: (name != "llm", name))


def verify_all(localize: Path, *, catalogue: str) -> dict[str, IntentStore]:
    """Verify all intents of a run and open them.

    Args:
        localize: folder of the stage.
        catalogue: hash of the run's catalogue.

    Returns:
        The intents by source, the LLM's first.

    Raises:
        StoreError: something is missing, has changed, or is for another catalogue.
    """
    summary = localize / "localize.json"
    content = store.read_json(summary) if summary.exists() else {}
    found = {}
    for name in sources_of(localize):
        found[name] = IntentStore.open(localize / name)
        found[name].verify(catalogue=catalogue)
    for name, expected in content.get("files", {}).items():
        if store.file_sha256(localize / name) != expected:
            raise DamagedError(
                f"{localize / name}: changed since it was written (its sha256 differs); "
                f"run llm4sbr localize {localize.parent} --force"
            )
    return found
