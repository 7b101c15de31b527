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
"""Batches whose samples are sorted by length together: little padding, still well mixed."""

_BASE = 0x5851F42D4C957F2D
"""Base of the polynomial hash; odd, hence invertible modulo 2^64, and 5 modulo 8, hence of full order."""
_INVERSE = pow(_BASE, -1, 1 << 64)


class Batch(NamedTuple):
    """B samples, padded to the longest prefix among them."""

    items: Tensor
    """int64 (B, T), right-padded with 0."""
    mask: Tensor
    """bool (B, T), true at clicks."""
    target: Tensor
    """int64 (B,), the next item's catalogue id."""
    index: Tensor  # type: ignore[assignment]  # hides `tuple.index`, which a batch has no use for
    """int64 (B,), which of the samples these are."""


def batches(
    sessions: Sessions, samples: Samples, *, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Batch]:
    """All samples once, in batches of samples of about equal length.

    Args:
        sessions: what the samples' positions refer to.
        samples: M samples.
        batch_size: B; the last batch may be smaller.
        generator: shuffles samples and batches, anew at every call; without one the order is by length.
    """
    for index in _parts(samples.end - samples.start, batch_size, generator):
        yield collate(sessions, samples, index)


def _parts(lengths: Tensor, batch_size: int, generator: torch.Generator | None) -> list[Tensor]:
    """Numbers of the samples of each batch."""
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
    """The samples `index` (int64 (B,), B >= 1) as one batch."""
    start, end = samples.start[index], samples.end[index]
    lengths = end - start
    steps = torch.arange(int(lengths.max()))
    mask = steps < lengths[:, None]
    positions = torch.where(mask, start[:, None] + steps, 0)
    return Batch(sessions.items[positions] * mask, mask, sessions.items[end], index)


def sample_keys(sessions: Sessions, start: Tensor, end: Tensor) -> Tensor:
    """A 64-bit hash of the items of each prefix `items[start:end]`, int64 (M,); equal prefixes, equal keys.

    A polynomial of the mixed item ids, modulo 2^64, so that all M hashes come out of one cumulative sum:
    with S[j] the sum of x[i] * base^i over i < j, a prefix's polynomial is (S[end] - S[start]) / base^start.
    The same on every machine and in every version.
    """
    items = _mix(sessions.items.numpy().astype(np.uint64))
    first, last = start.numpy(), end.numpy()
    sums = np.zeros(len(items) + 1, np.uint64)
    np.cumsum(items * _powers(_BASE, len(items)), out=sums[1:])
    polynomial = (sums[last] - sums[first]) * _powers(_INVERSE, len(items) + 1)[first]
    return torch.from_numpy(_mix(polynomial).view(np.int64))


def prefix_key(ids: Sequence[int]) -> int:
    """The key of one prefix given by its catalogue ids, oldest first; equal to its `sample_keys`."""
    items = torch.tensor(ids, dtype=torch.int64)
    whole = Sessions(items, torch.tensor([0, len(ids)]))
    return int(sample_keys(whole, torch.tensor([0]), torch.tensor([len(ids)]))[0])


def item_sessions(size: int) -> tuple[Sessions, Samples]:
    """A session of one click on every item of a catalogue, in order, as samples without a target (id 0)."""
    items = torch.arange(1, size + 2) % (size + 1)  # the last sample's target is the 0 at the end
    start = torch.arange(size)
    sessions = Sessions(items, torch.tensor([0, size + 1]))
    return sessions, Samples(start, start + 1, sample_keys(sessions, start, start + 1))


def item_keys(ids: Tensor) -> Tensor:
    """The keys of sessions of one click, int64 (M,), on items int64 (M,)."""
    at = torch.arange(len(ids))
    return sample_keys(Sessions(ids, torch.tensor([0, len(ids)])), at, at + 1)


def _powers(base: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def _mix(values: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Spread every bit of a number over all 64 (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
