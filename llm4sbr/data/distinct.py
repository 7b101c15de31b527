"""The distinct samples of all splits, since samples with equal prefixes share prompts and intents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm4sbr.data.batches import item_keys, item_sessions
from llm4sbr.data.mapped import blocks, firsts, mapped, order, taken
from llm4sbr.data.prepared import Prepared
from llm4sbr.protocols import Item, Unit


class Prefixes(Sequence[Sequence[Item]]):
    """Prefixes as lists of items, oldest first, each built on access to save memory."""

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
        """The prefixes of some rows, in their order."""
        index = torch.from_numpy(np.asarray(rows))
        return Prefixes(self._items, self._clicks, self._start[index], self._end[index])


class Targets(Sequence[list[int]]):
    """The catalogue ids that follow each distinct prefix, ascending, looked up on access."""

    def __init__(self, wanted: Tensor, key: Tensor, target: Tensor) -> None:
        self._wanted, self._key, self._target = (field.numpy() for field in (wanted, key, target))

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, row: Any) -> Any:
        first, last = (self._key.searchsorted(self._wanted[row], side) for side in ("left", "right"))
        return np.unique(self._target[first:last]).tolist()


class Distinct(NamedTuple):
    """The distinct samples of all splits, in the order of their first occurrence."""

    keys: Tensor
    """int64 (M,), sample keys."""
    splits: dict[str, range]
    """The rows of each split; a sample belongs to the split in which it occurs first."""
    prefixes: Prefixes
    start: Tensor
    """int64 (M,), positions in the flat tensor of all sessions, as in `Samples`."""
    end: Tensor
    unit: Unit = "session"
    """`item` for samples from `of_items`; their positions do not refer to the sessions of the data."""

    @classmethod
    def of_items(cls, prepared: Prepared) -> Distinct:
        """One sample per catalogue item, in catalogue order, whose prefix is that item."""
        size = prepared.catalogue.size
        sessions, (start, end, keys) = item_sessions(size)
        items = [prepared.catalogue.item(i + 1) for i in range(size)]
        prefixes = Prefixes(items, sessions.items, start, end)
        return cls(keys, {"items": range(size)}, prefixes, start, end, "item")

    @classmethod
    def of(cls, prepared: Prepared) -> Distinct:
        """The distinct samples of prepared data."""
        parts = prepared.samples
        keys, start, end = (_together(prepared, field) for field in ("key", "start", "end"))
        rows = firsts(keys)
        ends = torch.tensor([len(part.key) for part in parts.values()]).cumsum(0)
        bounds = [0, *torch.searchsorted(rows, ends).tolist()]
        splits = dict(zip(parts, map(range, bounds, bounds[1:]), strict=True))
        items = [prepared.catalogue.item(i + 1) for i in range(prepared.catalogue.size)]
        if len(rows) < len(keys):
            keys, start, end = (taken(field, rows) for field in (keys, start, end))
        return cls(keys, splits, Prefixes(items, prepared.sessions.items, start, end), start, end)

    def wholes(self, prepared: Prepared) -> Tensor:
        """Which samples are evaluated, or are the longest prefix of a training session; bool (M,)."""
        train, *others = prepared.samples.values()
        session = torch.searchsorted(prepared.sessions.offsets, train.end, right=True)
        last = torch.ones(len(session), dtype=torch.bool)
        last[:-1] = session[1:] != session[:-1]
        wanted = torch.cat([train.key[last], *(part.key for part in others)]).sort().values.numpy()

        def found() -> Iterator[NDArray[np.bool_]]:
            for some in blocks(len(self.keys)):
                keys = self.keys[some].numpy()
                yield wanted[wanted.searchsorted(keys).clip(max=len(wanted) - 1)] == keys

        return mapped(found(), np.bool_)

    def targets(self, prepared: Prepared) -> Targets:
        """For each row, the items that follow this prefix (or this item) anywhere in the data."""
        key, end = (_together(prepared, field) for field in ("key", "end"))
        if self.unit == "item":
            clicks = prepared.sessions.items
            key = mapped(item_keys(clicks[end[some] - 1]).numpy() for some in blocks(len(end)))
        rows = order(key)
        return Targets(self.keys, taken(key, rows), taken(prepared.sessions.items, taken(end, rows)))


def _together(prepared: Prepared, field: str) -> Tensor:
    return mapped(getattr(part, field).numpy() for part in prepared.samples.values())
