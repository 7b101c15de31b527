"""Large arrays in temporary, memory-mapped files, so that memory does not grow with the number of clicks.

The functions below process `BLOCK` elements at a time. "Mapped" means that the result is such an array.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

BLOCK = 2**16
"""Number of elements in memory at a time."""


def blocks(count: int) -> Iterator[slice]:
    """Divide the range 0..count into consecutive slices of at most `BLOCK`."""
    for begin in range(0, count, BLOCK):
        yield slice(begin, min(begin + BLOCK, count))


def mapped(parts: Iterable[NDArray[Any]], kind: DTypeLike = np.int64) -> Tensor:
    """Concatenate arrays in a temporary file, which is deleted together with the tensor.

    Args:
        parts: one-dimensional arrays; only one is in memory at a time.
        kind: type of the elements.

    Returns:
        (total,), mapped.
    """
    with tempfile.TemporaryFile() as file:
        size = 0
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=kind).data)
            size += len(part)
        file.flush()
        if not size:
            return torch.from_numpy(np.zeros(0, kind))
        return torch.from_numpy(np.memmap(file, kind, "r+", shape=(size,)))


def order(values: Tensor, *, descending: bool = False) -> Tensor:
    """The positions of M values in sorted order (a stable argsort), int64 (M,), mapped; M is below 2^31.

    A value's rank and its position are combined into one number, because an array of numbers can be sorted in
    place, without a second array in memory.
    """
    given, count = values.numpy(), len(values)
    ranked = mapped((given[some] for some in blocks(count)), given.dtype).numpy()
    ranked.sort()

    def numbers() -> Iterator[NDArray[np.int64]]:
        for some in blocks(count):
            rank = ranked.searchsorted(given[some])
            yield (count - rank if descending else rank) << 32 | np.arange(some.start, some.stop)

    found = mapped(numbers())
    found.numpy().sort()
    return found.bitwise_and_(2**32 - 1)


def firsts(values: Tensor) -> Tensor:
    """The position of the first occurrence of each distinct value, int64 (D,), ascending, mapped."""
    ordered, given = order(values).numpy(), values.numpy()

    def found() -> Iterator[NDArray[np.int64]]:
        last = None
        for some in blocks(len(ordered)):
            distinct, first = np.unique(given[ordered[some]], return_index=True)
            yield ordered[some][first[int(distinct[0] == last) :]]
            last = distinct[-1]

    rows = mapped(found())
    rows.numpy().sort()
    return rows


def taken(values: Tensor, rows: Tensor) -> Tensor:
    """The values at positions `rows`, int64 (n,), mapped."""
    return mapped((values[rows[some]].numpy() for some in blocks(len(rows))), values.numpy().dtype)


def places(count: int) -> Tensor:
    """The numbers 0, 1, 2 ..., int64 (count,), mapped."""
    return mapped(np.arange(some.start, some.stop) for some in blocks(count))
