"""The keys of all prompts of a run, on disk: as many as there are, in memory that does not grow with them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

__all__ = ["PromptKeys"]

WIDTH = 32
"""Bytes of a key."""

AT_ONCE = 2**17
"""Keys in memory at once, about: 4 MB."""


class PromptKeys:
    """One row of keys per sample, appended in order and read at any place. Use it in a `with` block.

    The file has no name; it goes when it is closed, or with the process.

    Args:
        views: P, keys per sample.
    """

    def __init__(self, views: int) -> None:
        self.views = views
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._samples = 0

    def __len__(self) -> int:
        """Samples."""
        return self._samples

    def append(self, keys: Sequence[bytes]) -> None:
        """The keys of the next sample, one per perspective."""
        self._file.write(b"".join(keys))
        self._samples += 1

    def of(self, sample: int) -> list[bytes]:
        """The keys of one sample."""
        (row,) = self.rows(sample, sample + 1)
        return row

    def rows(self, begin: int, end: int) -> list[list[bytes]]:
        """The keys of samples `begin` to `end - 1`."""
        self._file.flush()
        width = self.views * WIDTH
        data = os.pread(self._file.fileno(), (end - begin) * width, begin * width)
        keys = [data[i : i + WIDTH] for i in range(0, len(data), WIDTH)]
        return [keys[i : i + self.views] for i in range(0, len(keys), self.views)]

    def distinct(self) -> Iterator[list[bytes]]:
        """Every key once, in groups; ascending, which is the order of the answer cache's table."""
        total = self._samples * self.views
        groups = max(1, -(-total // AT_ONCE))
        for group in range(groups):
            low, high = (round(2**64 * part / groups) for part in (group, group + 1))
            # of each chunk what is distinct: a key that comes all the time would fill the memory
            found = [_once(rows[_between(rows, low, high)]) for rows in self._chunks()]
            whole = _once(np.concatenate([*found, np.empty((0, WIDTH), np.uint8)])).tobytes()
            yield [whole[i : i + WIDTH] for i in range(0, len(whole), WIDTH)]

    def short(self) -> Iterator[NDArray[np.int64]]:
        """All keys in their order, as the numbers that their first 8 bytes are, int64 (some,) each."""
        return (_first(rows).view(np.int64) for rows in self._chunks())

    def _chunks(self) -> Iterator[NDArray[np.uint8]]:
        """All keys, uint8 (some, 32) each."""
        self._file.flush()
        size, begin = AT_ONCE * WIDTH, 0
        while data := os.pread(self._file.fileno(), size, begin):
            yield np.frombuffer(data, np.uint8).reshape(-1, WIDTH)
            begin += len(data)

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def __enter__(self) -> PromptKeys:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _between(rows: NDArray[np.uint8], low: int, high: int) -> NDArray[np.bool_]:
    """Which keys begin with 8 bytes that are, as a number, from `low` to `high - 1`."""
    first = _first(rows)
    below = first < np.uint64(high) if high < 2**64 else np.ones(len(first), bool)
    return (first >= np.uint64(low)) & below


def _once(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every key once, ascending; the first 8 bytes of a sha256 tell keys apart."""
    return rows[np.unique(_first(rows), return_index=True)[1]]


def _first(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 8 bytes of each key as a number, in the order of the keys."""
    return np.ascontiguousarray(rows[:, :8]).view(">u8").ravel().astype(np.uint64)
