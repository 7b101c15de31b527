"""The samples of all splits without repetition: equal prefixes are one prompt and one intent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from llm4sbr.data.prepared import Prepared
from llm4sbr.protocols import Item


class Prefixes(Sequence[Sequence[Item]]):
    """Prefixes as items, oldest first; each is made when it is asked for."""

    def __init__(self, items: list[Item], clicks: Tensor, start: Tensor, end: Tensor) -> None:
        self._items = items
        self._clicks = clicks
        self._start = start
        self._end = end

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, index: Any) -> Any:
        clicks = self._clicks[int(self._start[index]) : int(self._end[index])]
        return [self._items[click - 1] for click in clicks.tolist()]

    def take(self, rows: Sequence[int]) -> Prefixes:
        """Some of them, in this order."""
        return Prefixes(self._items, self._clicks, self._start[rows], self._end[rows])


class Distinct(NamedTuple):
    """The samples of all splits without repetition, in the order in which they first appear."""

    keys: Tensor
    """int64 (M,)."""
    splits: list[str]
    """The split in which a sample first appears."""
    prefixes: Prefixes
    start: Tensor
    """int64 (M,), positions in the flat tensor of all sessions, as in `Samples`."""
    end: Tensor

    @classmethod
    def of(cls, prepared: Prepared) -> Distinct:
        """Those of prepared data."""
        parts = prepared.samples
        splits = [name for name, part in parts.items() for _ in range(len(part.key))]
        keys, start, end = (
            torch.cat([getattr(p, f) for p in parts.values()]) for f in ("key", "start", "end")
        )
        rows = torch.from_numpy(np.sort(np.unique(keys.numpy(), return_index=True)[1]))
        items = [prepared.catalogue.item(i + 1) for i in range(prepared.catalogue.size)]
        prefixes = Prefixes(items, prepared.sessions.items, start[rows], end[rows])
        return cls(keys[rows], [splits[i] for i in rows.tolist()], prefixes, start[rows], end[rows])

    def targets(self, prepared: Prepared) -> list[list[int]]:
        """Catalogue ids that follow each prefix somewhere, one list per distinct sample."""
        parts = [part for part in prepared.samples.values() if len(part.key)]
        ends = torch.cat([part.end for part in parts])
        keys = torch.cat([part.key for part in parts])
        table = pl.DataFrame({"key": keys.numpy(), "target": prepared.sessions.items[ends].numpy()})
        grouped = table.unique().sort("key", "target").group_by("key").agg("target")
        order = pl.DataFrame({"key": self.keys.numpy()})
        return order.join(grouped, on="key", how="left", maintain_order="left")["target"].to_list()
