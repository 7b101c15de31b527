"""Large arrays in temporary files, memory-mapped, so that memory does not grow with the number of clicks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

BLOCK = 2**16
"""Numbers in memory at once."""


def blocks(count: int) -> Iterator[slice]:
    """Slices of `BLOCK` that make up `count`, one after the other."""
    for begin in range(0, count, BLOCK):
        yield slice(begin, min(begin + BLOCK, count))


def mapped(parts: Iterable[NDArray[Any]], kind: DTypeLike = np.int64) -> Tensor:
    """`kind` (total,): the parts one after the other, in a file without a name that goes with the tensor.

    Args:
        parts: numbers; taken one by one.
        kind: of the numbers.
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
    """int64 (M,): places of M values, fewer than 2^31, ascending; equal values as they come. Mapped.

    A value's rank and its place make one number, and numbers can be sorted where they lie.
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
    """int64 (D,): the places at which each of D distinct values comes first, ascending. Mapped."""
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
    """(n,): values at some places, int64 (n,), in their order. Mapped."""
    return mapped((values[rows[some]].numpy() for some in blocks(len(rows))), values.numpy().dtype)


def places(count: int) -> Tensor:
    """int64 (count,): 0, 1, 2 ... Mapped."""
    return mapped(np.arange(some.start, some.stop) for some in blocks(count))
