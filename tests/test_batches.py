from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from llm4sbr.data.batches import batches, collate, prefix_key, sample_keys
from llm4sbr.protocols import Samples, Sessions

LISTS = st.lists(st.lists(st.integers(1, 50), min_size=2, max_size=9), min_size=1, max_size=30)


def make(lists: list[list[int]]) -> tuple[Sessions, Samples]:
    """Every prefix of every list as a sample."""
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    sessions = Sessions(torch.tensor([item for one in lists for item in one]), offsets)
    pairs = [(int(o), int(o) + n) for o, one in zip(offsets, lists, strict=False) for n in range(1, len(one))]
    start, end = torch.tensor(pairs).T
    return sessions, Samples(start, end, sample_keys(sessions, start, end))


@settings(max_examples=40, deadline=None)
@given(LISTS, st.integers(1, 7), st.none() | st.integers(0, 3))
def test_batches_cover_every_sample_once_with_its_own_clicks(lists, size, seed):
    sessions, samples = make(lists)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    seen = []
    for batch in batches(sessions, samples, batch_size=size, generator=generator):
        assert len(batch.index) <= size
        assert batch.items.shape == batch.mask.shape
        assert batch.mask.sum(1).max() == batch.items.shape[1]
        for row, index in enumerate(batch.index.tolist()):
            start, end = int(samples.start[index]), int(samples.end[index])
            prefix = sessions.items[start:end].tolist()
            padding = batch.items.shape[1] - len(prefix)
            assert batch.items[row].tolist() == prefix + [0] * padding
            assert batch.mask[row].tolist() == [True] * len(prefix) + [False] * padding
            assert batch.target[row] == sessions.items[end]
            seen.append(index)
    assert sorted(seen) == list(range(len(samples.end)))


def test_without_a_generator_the_order_is_by_length_and_fixed():
    sessions, samples = make([[1, 2, 3, 4], [5, 6], [7, 8, 9]])
    widths = [batch.items.shape[1] for batch in batches(sessions, samples, batch_size=2)]
    again = [batch.items.shape[1] for batch in batches(sessions, samples, batch_size=2)]
    assert widths == again == [1, 2, 3]


def test_a_seed_gives_one_order_and_the_next_epoch_another():
    sessions, samples = make([list(range(1, 41))])

    def order(generator: torch.Generator) -> list[int]:
        return torch.cat(
            [b.index for b in batches(sessions, samples, batch_size=4, generator=generator)]
        ).tolist()

    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert order(first) == order(second)
    assert order(first) != order(torch.Generator().manual_seed(1))


def test_no_samples_give_no_batches():
    sessions, samples = make([[1, 2]])
    empty = Samples(*(column[:0] for column in samples))
    assert list(batches(sessions, empty, batch_size=3)) == []


@settings(max_examples=60, deadline=None)
@given(LISTS)
def test_keys_agree_exactly_where_prefixes_agree(lists):
    sessions, samples = make(lists)
    by_key: dict[int, list[int]] = {}
    for start, end, key in zip(*(column.tolist() for column in samples), strict=True):
        prefix = sessions.items[start:end].tolist()
        assert by_key.setdefault(key, prefix) == prefix
        assert prefix_key(prefix) == key
    prefixes = {tuple(prefix) for prefix in by_key.values()}
    assert len(prefixes) == len(by_key)


def test_a_key_depends_on_order_and_length():
    variants = [[1], [2], [1, 1], [1, 2], [2, 1], [1, 2, 1], [2, 1, 1], []]
    assert len({prefix_key(ids) for ids in variants}) == len(variants)


def test_keys_never_change():
    # Worked out with Python integers: h = mix(sum of mix(x_i) * base^i mod 2^64). Stored intents rest on it.
    mask = (1 << 64) - 1

    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    ids = [3, 1, 3412]
    expected = mix(sum(mix(x) * pow(0x5851F42D4C957F2D, i, 1 << 64) for i, x in enumerate(ids)) & mask)
    assert prefix_key(ids) % (1 << 64) == expected
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 with seed 0


def test_collate_takes_the_samples_in_the_order_asked():
    sessions, samples = make([[1, 2, 3]])
    batch = collate(sessions, samples, torch.tensor([1, 0]))
    assert batch.items.tolist() == [[1, 2], [1, 0]]
    assert batch.target.tolist() == [3, 2]
