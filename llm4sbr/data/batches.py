"""Padded batches of samples, and the hash that identifies a prefix.

No loops over samples: a batch is one gather from the flat tensor of all clicks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llm4sbr.protocols import Samples, Sessions

CHUNK = 50
"""Number of batches whose samples are sorted by length together. A larger number means less padding, a
smaller one batches that are more random."""

_BASE = 0x5851F42D4C957F2D
"""Base of the polynomial hash: odd, so that it has an inverse modulo 2^64, and 5 modulo 8, so that its powers
repeat as late as possible."""
_INVERSE = pow(_BASE, -1, 1 << 64)


class Batch(NamedTuple):
    """B samples, padded to the longest prefix among them."""

    items: Tensor
    """int64 (B, T), right-padded with 0."""
    mask: Tensor
    """bool (B, T), true at clicks."""
    target: Tensor
    """int64 (B,), the next item's catalogue id."""
    index: Tensor  # type: ignore[assignment]  # hides the method `tuple.index`, which is not needed
    """int64 (B,), the numbers of these samples."""


def batches(
    sessions: Sessions,
    samples: Samples,
    chosen: Tensor | None = None,
    *,
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Iterator[Batch]:
    """Yield every sample once, in batches of samples of similar length.

    Args:
        sessions: the sessions that the samples refer to.
        samples: M samples.
        chosen: int64 (S,), the numbers of the samples to yield; by default all.
        batch_size: B; one batch may be smaller.
        generator: shuffles samples and batches, differently at every call; without it they are ordered by
            length.
    """
    lengths = samples.end - samples.start
    for index in _parts(lengths if chosen is None else lengths[chosen], batch_size, generator):
        yield collate(sessions, samples, index if chosen is None else chosen[index])


def _parts(lengths: Tensor, batch_size: int, generator: torch.Generator | None) -> list[Tensor]:
    """The numbers of the samples in each batch."""
    count = len(lengths)
    if not count:
        return []
    starts = range(batch_size, count, batch_size)
    if generator is None:
        return list(lengths.argsort(stable=True).tensor_split(list(starts)))
    order = torch.randperm(count, generator=generator)
    chunk = torch.arange(count) // (CHUNK * batch_size)
    by_length = (chunk * (int(lengths.max()) + 1) + lengths[order]).argsort(stable=True)
    parts = order[by_length].tensor_split(list(starts))
    return [parts[number] for number in torch.randperm(len(parts), generator=generator).tolist()]


def collate(sessions: Sessions, samples: Samples, index: Tensor) -> Batch:
    """Combine the samples `index`, int64 (B,) with B >= 1, into one batch."""
    start, end = samples.start[index], samples.end[index]
    lengths = end - start
    steps = torch.arange(int(lengths.max()))
    mask = steps < lengths[:, None]
    positions = torch.where(mask, start[:, None] + steps, 0)
    return Batch(sessions.items[positions] * mask, mask, sessions.items[end], index)


def sample_keys(sessions: Sessions, start: Tensor, end: Tensor) -> Tensor:
    """A 64-bit hash of the items of each prefix `items[start:end]`, int64 (M,); equal for equal prefixes.

    The hash is a polynomial in the mixed item ids x, modulo 2^64, so that one cumulative sum gives all M
    hashes: with S[j] the sum of x[i] * base^i over i < j, the hash of a prefix is (S[end] - S[start]) /
    base^start. It is the same on every machine, and must stay the same in every version, because files of
    runs contain it.
    """
    items = _mix(sessions.items.numpy().astype(np.uint64))
    first, last = start.numpy(), end.numpy()
    sums = np.zeros(len(items) + 1, np.uint64)
    np.cumsum(items * _powers(_BASE, len(items)), out=sums[1:])
    polynomial = (sums[last] - sums[first]) * _powers(_INVERSE, len(items) + 1)[first]
    return torch.from_numpy(_mix(polynomial).view(np.int64))


def prefix_key(ids: Sequence[int]) -> int:
    """The key, as from `sample_keys`, of one prefix given by its catalogue ids, oldest first."""
    items = torch.tensor(ids, dtype=torch.int64)
    whole = Sessions(items, torch.tensor([0, len(ids)]))
    return int(sample_keys(whole, torch.tensor([0]), torch.tensor([len(ids)]))[0])


def item_sessions(size: int) -> tuple[Sessions, Samples]:
    """One sample per catalogue item, whose prefix is a single click on it; `size` is N.

    The samples have no meaningful target.
    """
    items = torch.arange(1, size + 2) % (size + 1)  # the last sample's target is the 0 at the end
    start = torch.arange(size)
    sessions = Sessions(items, torch.tensor([0, size + 1]))
    return sessions, Samples(start, start + 1, sample_keys(sessions, start, start + 1))


def item_keys(ids: Tensor) -> Tensor:
    """The keys, int64 (M,), of prefixes of one click each, on catalogue ids int64 (M,)."""
    at = torch.arange(len(ids))
    return sample_keys(Sessions(ids, torch.tensor([0, len(ids)])), at, at + 1)


def _powers(base: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def _mix(values: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Mix the bits of each number (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
