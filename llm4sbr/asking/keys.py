"""The cache keys of all prompts of a run, in a temporary file, so that memory does not grow with them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

__all__ = ["PromptKeys"]

WIDTH = 32
"""Bytes per key."""

AT_ONCE = 2**17
"""Keys in memory at once, about 4 MB."""


class PromptKeys:
    """One row of keys per sample, appended in order and readable at any position. Use it in a `with` block.

    The temporary file is deleted when it is closed, or when the process ends.

    Args:
        keys_per_sample: P, one key per perspective.
    """

    def __init__(self, keys_per_sample: int) -> None:
        self.keys_per_sample = keys_per_sample
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._samples = 0

    def __len__(self) -> int:
        """Number of samples."""
        return self._samples

    def append(self, keys: Sequence[bytes]) -> None:
        """Add the keys of the next sample, one per perspective."""
        self._file.write(b"".join(keys))
        self._samples += 1

    def of(self, sample: int) -> list[bytes]:
        """The keys of one sample."""
        (row,) = self.rows(sample, sample + 1)
        return row

    def rows(self, begin: int, end: int) -> list[list[bytes]]:
        """The keys of samples `begin` to `end - 1`."""
        self._file.flush()
        width = self.keys_per_sample * WIDTH
        data = os.pread(self._file.fileno(), (end - begin) * width, begin * width)
        keys = [data[i : i + WIDTH] for i in range(0, len(data), WIDTH)]
        return [keys[i : i + self.keys_per_sample] for i in range(0, len(keys), self.keys_per_sample)]

    def distinct(self) -> Iterator[list[bytes]]:
        """All distinct keys in groups, in ascending order as the answer cache's table has them."""
        total = self._samples * self.keys_per_sample
        groups = max(1, -(-total // AT_ONCE))
        for group in range(groups):
            low, high = (round(2**64 * part / groups) for part in (group, group + 1))
            # remove duplicates per chunk first, so that frequent keys do not fill the memory
            found = [_once(rows[_between(rows, low, high)]) for rows in self._chunks()]
            whole = _once(np.concatenate([*found, np.empty((0, WIDTH), np.uint8)])).tobytes()
            yield [whole[i : i + WIDTH] for i in range(0, len(whole), WIDTH)]

    def short(self) -> Iterator[NDArray[np.int64]]:
        """The first 8 bytes of every key as a number, in order, in arrays int64 (n,)."""
        return (_first(rows).view(np.int64) for rows in self._chunks())

    def _chunks(self) -> Iterator[NDArray[np.uint8]]:
        """All keys in chunks, uint8 (n, 32)."""
        self._file.flush()
        size, begin = AT_ONCE * WIDTH, 0
        while data := os.pread(self._file.fileno(), size, begin):
            yield np.frombuffer(data, np.uint8).reshape(-1, WIDTH)
            begin += len(data)

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def __enter__(self) -> PromptKeys:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _between(rows: NDArray[np.uint8], low: int, high: int) -> NDArray[np.bool_]:
    """Which keys have a number (their first 8 bytes) from `low` to `high - 1`."""
    first = _first(rows)
    below = first < np.uint64(high) if high < 2**64 else np.ones(len(first), bool)
    return (first >= np.uint64(low)) & below


def _once(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The distinct keys, ascending; compared by their first 8 bytes, which is enough for a sha256."""
    return rows[np.unique(_first(rows), return_index=True)[1]]


def _first(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 8 bytes of each key as a big-endian number, so that numbers sort like keys."""
    return np.ascontiguousarray(rows[:, :8]).view(">u8").ravel().astype(np.uint64)
