from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from llm4sbr.config import DataConfig
from llm4sbr.data import splits
from llm4sbr.data.sessions import ClickLog
from llm4sbr.data.splits import Known, expand, split
from llm4sbr.errors import DataError

RULES = st.sampled_from(["last", "all"])
LISTS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=7), min_size=12, max_size=40)


def make(lists: list[list[int]], ends: list[float] | None = None) -> ClickLog:
    """Sessions of item codes; session s ends at time s unless `ends` says otherwise."""
    times = np.array(ends if ends is not None else range(len(lists)), dtype=np.float64)
    offsets = np.append(0, np.cumsum([len(one) for one in lists])).astype(np.int64)
    keys = pl.Series([f"i{code}" for code in range(max((max(one) for one in lists if one), default=0) + 1)])
    names = pl.Series([f"s{number}" for number in range(len(lists))])
    flat = np.array([item for one in lists for item in one], dtype=np.int64)
    return ClickLog(flat, offsets, times, times, names, keys)


def pairs(result: splits.Split, name: str) -> list[tuple[list[int], int]]:
    items = result.log.items.tolist()
    return [(items[a:b], items[b]) for a, b in zip(*(x.tolist() for x in result.samples[name]), strict=True)]


def of(log: ClickLog) -> list[list[int]]:
    return [log.items[a:b].tolist() for a, b in zip(log.offsets, log.offsets[1:], strict=False)]


def config(**options: object) -> DataConfig:
    return DataConfig(**{"min_item_count": 1, "valid": 0.2, "test": 0.2, **options})


def test_prefixes_last_and_all():
    log = make([[1, 2, 3], [4], [5, 6]])
    assert [x.tolist() for x in expand(log.offsets, "last")] == [[0, 4], [2, 5]]
    assert [x.tolist() for x in expand(log.offsets, "all")] == [[0, 0, 4], [1, 2, 5]]


def test_temporal_puts_the_last_sessions_to_the_end():
    result = split(make([[n % 3, (n + 1) % 3] for n in range(10)]), config(), rule="temporal")
    assert result.log.names.to_list() == [f"s{n}" for n in range(10)]
    assert result.train.names.to_list() == [f"s{n}" for n in range(6)]
    assert [len(result.samples[name][0]) for name in ("train", "valid", "test")] == [6, 2, 2]
    assert pairs(result, "test") == [([2], 0), ([0], 1)]


def test_trained_on_every_prefix_and_tested_on_the_last_by_hand():
    lists = [[0, 1, 2], [1, 0], [2, 0, 1, 2], [0, 2, 1], [1, 2, 0, 1]]
    log = make(lists)
    result = split(log, config(train_prefixes="all", test_prefixes="last"), rule="temporal")
    assert pairs(result, "train") == [([0], 1), ([0, 1], 2), ([1], 0), ([2], 0), ([2, 0], 1), ([2, 0, 1], 2)]
    assert pairs(result, "valid") == [([0, 2], 1)]
    assert pairs(result, "test") == [([1, 2, 0], 1)]
    turned = split(log, config(train_prefixes="last", test_prefixes="all"), rule="temporal")
    assert pairs(turned, "train") == [([0, 1], 2), ([1], 0), ([2, 0, 1], 2)]
    assert pairs(turned, "valid") == [([0], 2), ([0, 2], 1)]
    assert pairs(turned, "test") == [([1], 2), ([1, 2], 0), ([1, 2, 0], 1)]
    silent = split(log, config(), rule="temporal")
    assert (silent.train_prefixes, silent.test_prefixes) == ("all", "all")
    assert [len(silent.samples[name][0]) for name in ("train", "valid", "test")] == [6, 2, 3]


def test_temporal_keeps_sessions_that_end_together_on_one_side():
    ends = [0, 1, 2, 3, 4, 5, 7, 7, 7, 7]
    result = split(make([[0, 1]] * 10, ends), config(valid=0), rule="temporal")
    assert result.train.end.max() < 7
    assert len(result.samples["test"][0]) == 4
    with pytest.raises(DataError, match=r"no train sample is left.*data\.split=random"):
        split(make([[0, 1]] * 10, [5.0] * 10), config(), rule="temporal")


def test_the_vocabulary_comes_from_training_alone():
    # Item 5 occurs often, but late; item 2 is rare in training though not overall.
    lists = [[0, 1]] * 5 + [[0, 1, 2]] + [[0, 5, 1, 2], [5, 0]] + [[5, 2, 0, 1], [5, 5, 2]]
    result = split(make(lists), config(min_item_count=2), rule="temporal")
    assert set(result.log.items.tolist()) == {0, 1}
    assert pairs(result, "valid") == [([0], 1)]
    assert pairs(result, "test") == [([0], 1)]
    assert result.dropped == {
        "clicks of sessions too short": 0,
        "train clicks on rare items": 1,
        "valid clicks on items not in train": 3,
        "valid sessions too short without them": 1,
        "test clicks on items not in train": 5,
        "test sessions too short without them": 1,
    }


@settings(max_examples=40, deadline=None)
@given(LISTS, st.sampled_from(["temporal", "random"]), RULES, RULES)
def test_no_session_is_on_two_sides_and_no_test_item_is_unknown(lists, rule, train, test):
    chosen = config(train_prefixes=train, test_prefixes=test, min_item_count=2)
    try:
        result = split(make(lists), chosen, rule=rule)
    except DataError:
        return
    kept = {"train": train, "valid": test, "test": test}
    for name, (start, end) in result.samples.items():  # a click is a target at most once, and in one part
        whole = np.isin(result.log.offsets[:-1], start)
        expected = result.log.lengths[whole] - 1
        assert len(end) == (len(expected) if kept[name] == "last" else expected.sum())
        assert len(np.unique(end)) == len(end)
    targets = {name: set(end.tolist()) for name, (_, end) in result.samples.items()}
    assert not targets["train"] & (targets["valid"] | targets["test"])
    owners = {
        name: set(np.searchsorted(result.log.offsets, start, side="right") - 1)
        for name, (start, _) in result.samples.items()
    }
    assert not owners["train"] & owners["test"]
    assert not owners["train"] & owners["valid"]
    assert not owners["valid"] & owners["test"]
    assert set(result.log.items.tolist()) == set(result.train.items.tolist())
    assert min(np.bincount(result.train.items)[np.unique(result.train.items)]) >= 2
    if rule == "temporal":
        last = max(result.log.end[list(owners["train"])])
        assert all(result.log.end[list(owners["test"])] > last)


def test_random_follows_the_seed():
    log = make([[n % 3, (n + 1) % 3] for n in range(40)])
    names = [split(log, config(seed=seed), rule="random").train.names.to_list() for seed in (0, 0, 1)]
    assert names[0] == names[1]
    assert names[0] != names[2]


def test_paper_splits_samples_and_has_no_validation_part():
    log = make([[0, 1, 2, 0, 1, 2]] * 10)
    result = split(log, config(test=0.3), rule="paper")
    assert [len(result.samples[name][0]) for name in ("train", "valid", "test")] == [35, 0, 15]
    everything = pairs(result, "train") + pairs(result, "test")
    assert sorted(everything) == sorted(
        ([0, 1, 2, 0, 1, 2][:n], [0, 1, 2, 0, 1, 2][n]) for n in range(1, 6) for _ in range(10)
    )


def test_paper_knows_its_own_data_sets_by_their_size(monkeypatch):
    log = make([[0, 1, 2]] * 10)
    monkeypatch.setattr(splits, "PAPER", (Known(items=3, clicks=30, prefixes="last", test=4),))
    result = split(log, config(), rule="paper")
    assert (result.train_prefixes, result.test_prefixes) == ("last", "last")
    assert (len(result.samples["train"][0]), len(result.samples["test"][0])) == (6, 4)
    chosen = split(log, config(test_prefixes="all"), rule="paper")
    assert (chosen.train_prefixes, chosen.test_prefixes) == ("all", "all")
    assert len(chosen.samples["test"][0]) == 4  # 20% of 20, not the known size


def test_paper_takes_two_rules_and_never_trains_on_a_test_target():
    log = make([[0, 1, 2, 0]] * 10)
    both = split(log, config(train_prefixes="all", test_prefixes="last"), rule="paper")
    assert pairs(both, "test") == [([0, 1, 2], 0)] * 2
    assert len(both.samples["train"][0]) == 28
    assert not set(both.samples["train"][1].tolist()) & set(both.samples["test"][1].tolist())


def test_paper_lets_fit_see_sessions_up_to_their_last_training_sample():
    result = split(make([[0, 1, 2, 3]] * 12), config(test=0.5, seed=1), rule="paper")
    ends: dict[int, int] = {}
    for start, end in zip(*(x.tolist() for x in result.samples["train"]), strict=True):
        ends[start] = max(end, ends.get(start, 0))
    assert of(result.train) == [result.log.items[a : b + 1].tolist() for a, b in sorted(ends.items())]


@pytest.mark.parametrize(
    ("prefixes", "train"),
    [("last", [([0, 1], 2), ([2], 1)]), ("all", [([0], 1), ([0, 1], 2), ([2], 1)])],
)
def test_leave_last_out_takes_the_last_clicks(prefixes, train):
    log = make([[0, 1, 2, 0, 1], [2, 1, 0, 1], [1, 2, 0], [0, 2]])
    result = split(log, config(train_prefixes=prefixes), rule="leave-last-out")
    assert (result.train_prefixes, result.test_prefixes) == (prefixes, "last")
    assert pairs(result, "train") == train
    assert pairs(result, "valid") == [([0, 1, 2], 0), ([2, 1], 0), ([1], 2)]
    assert pairs(result, "test") == [([0, 1, 2, 0], 1), ([2, 1, 0], 1), ([1, 2], 0), ([0], 2)]
    assert of(result.train) == [[0, 1, 2], [2, 1], [1]]


def test_leave_last_out_tests_on_last_clicks_alone():
    with pytest.raises(DataError, match=r"leave out data\.test_prefixes=all"):
        split(make([[0, 1, 0]] * 10), config(test_prefixes="all"), rule="leave-last-out")


@pytest.mark.parametrize("rule", ["temporal", "random", "paper", "leave-last-out"])
def test_one_session_and_no_session_are_said_plainly(rule):
    with pytest.raises(DataError, match="sample is left"):
        split(make([[0, 1]]), config(), rule=rule)
    with pytest.raises(DataError, match="no session has 2 clicks or more"):
        split(make([[0], [1]]), config(), rule=rule)


def test_a_single_item_is_not_enough():
    with pytest.raises(DataError, match="1 item is left"):
        split(make([[0, 0]] * 10), config(), rule="temporal")
