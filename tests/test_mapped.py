"""Numbers on disk: their order and what is distinct among them, in memory that does not grow with them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.data import mapped as module
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.mapped import firsts, mapped, order, places, taken
from llm4sbr.data.prepared import load
from llm4sbr.testing.toy_run import toy_run

WHOLE = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), max_size=60)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)


@settings(max_examples=60, deadline=None)
@given(WHOLE, st.integers(1, 9))
def test_order_and_firsts_are_those_of_torch_and_numpy(numbers, block):
    values = torch.tensor(numbers, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        for descending in (False, True):
            expected = values.argsort(stable=True, descending=descending)
            assert order(values, descending=descending).tolist() == expected.tolist()
        assert firsts(values).tolist() == sorted(np.unique(values.numpy(), return_index=True)[1])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_fractions_are_sorted_as_torch_does_the_largest_first(kind):
    values = torch.rand(50, generator=torch.Generator().manual_seed(0)).to(kind).mul(8).floor() / 3
    values[[3, 30]] = torch.nan
    found = order(values, descending=True)
    assert found.tolist() == values.argsort(stable=True, descending=True).tolist()
    sorted_values = taken(values, found)
    assert sorted_values.dtype == kind
    assert sorted_values.tolist()[2:] == sorted(values.nan_to_num(-1).tolist(), reverse=True)[:-2]


@pytest.mark.usefixtures("small_blocks")
def test_places_and_parts():
    assert places(20).tolist() == list(range(20))
    assert places(0).tolist() == []
    assert mapped([np.arange(3), np.zeros(0), np.arange(2)[::-1]]).tolist() == [0, 1, 2, 1, 0]
    assert taken(torch.arange(9) * 2, torch.tensor([8, 0, 0])).tolist() == [16, 0, 0]


def _peak(count: int) -> int:
    values = mapped([np.random.default_rng(0).integers(0, count // 2, count)])
    tracemalloc.start()
    firsts(values)
    taken(values, order(values))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.usefixtures("small_blocks")
def test_memory_does_not_grow_with_the_numbers(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 1000)
    assert _peak(64_000) < 1.1 * _peak(4_000) + 20_000


@pytest.mark.usefixtures("small_blocks")
def test_distinct_samples_and_their_targets_by_hand(tmp_path):
    prepared = load(toy_run(tmp_path / "run", sources=()) / "prepare")
    following: dict[tuple[int, ...], set[int]] = {}
    first: dict[tuple[int, ...], str] = {}
    for split, part in prepared.samples.items():
        for index, end in enumerate(part.end.tolist()):
            prefix = tuple(prepared.prefix(part, index))
            first.setdefault(prefix, split)
            following.setdefault(prefix, set()).add(int(prepared.sessions.items[end]))
    samples = Distinct.of(prepared)
    assert len(following) < sum(len(part.key) for part in prepared.samples.values())
    found = [tuple(item.id for item in prefix) for prefix in samples.prefixes]
    assert found == list(first)
    for split, rows in samples.splits.items():
        assert [first[found[row]] for row in rows] == [split] * len(rows)
    targets = samples.targets(prepared)
    assert [targets[row] for row in range(len(found))] == [sorted(following[prefix]) for prefix in found]
