from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from llm4sbr.data.sessions import ClickLog, cut, default_rule, drop_rare, join, settle, take, thin
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

NO_ITEMS = pl.DataFrame(schema={"item": pl.String, "title": pl.String})
CLICK = st.tuples(st.sampled_from("abc"), st.sampled_from("vwxyz"), st.integers(0, 40))


def raw(clicks: list[tuple[str, str, float]], *, owner: str = "user", ordered_only: bool = False) -> RawData:
    names, items, times = zip(*clicks, strict=True)
    kind = pl.Int64 if ordered_only else pl.Float64
    table = pl.DataFrame(
        {
            owner: names,
            "item": items,
            "time": pl.Series(times).cast(kind),
            "row": range(2, len(clicks) + 2),
        }
    )
    return RawData(table, NO_ITEMS, ordered_only)


def as_lists(log: ClickLog) -> list[list[str]]:
    keys = log.keys.to_list()
    return [[keys[i] for i in part] for part in np.split(log.items, log.offsets[1:-1])]


def naive(clicks: list[tuple[str, str, float]], rule: str, seconds: float) -> list[list[str]]:
    """Sessions by the book, one click at a time, in the order of their last click."""
    unique = list(dict.fromkeys(clicks))
    sessions: list[tuple[float, list[str]]] = []
    for user in dict.fromkeys(name for name, _, _ in unique):
        own = sorted((click for click in unique if click[0] == user), key=lambda click: click[2])
        previous = None
        for _, item, time in own:
            new = (
                previous is None
                or (rule == "gap" and time - previous > seconds)
                or (rule == "bins" and math.floor(time / seconds) != math.floor(previous / seconds))
            )
            if new:
                sessions.append((time, []))
            sessions[-1] = (time, [*sessions[-1][1], item])
            previous = time
    return [items for _, items in sorted(sessions, key=lambda session: session[0])]


@settings(max_examples=80, deadline=None)
@given(st.lists(CLICK, min_size=1, max_size=40), st.sampled_from(["user", "gap", "bins"]), st.integers(1, 20))
def test_rules_agree_with_a_naive_reading(clicks, rule, seconds):
    log, repeats = cut(raw(clicks), rule, seconds=seconds)
    assert as_lists(log) == naive(clicks, rule, seconds)
    assert repeats == len(clicks) - len(set(clicks))


def test_a_pause_of_exactly_the_gap_goes_on_and_bins_follow_the_clock():
    clicks = [("a", "v", 0), ("a", "w", 600), ("a", "x", 1199), ("a", "y", 1800)]
    assert as_lists(cut(raw(clicks), "gap", seconds=600)[0]) == [["v", "w", "x"], ["y"]]
    assert as_lists(cut(raw(clicks), "bins", seconds=600)[0]) == [["v"], ["w", "x"], ["y"]]


def test_clicks_of_one_time_keep_the_order_of_the_file():
    clicks = [("a", "z", 5), ("a", "v", 5), ("a", "y", 1), ("a", "z", 5), ("a", "v", 6)]
    log, repeats = cut(raw(clicks), "user", seconds=1)
    assert as_lists(log) == [["y", "z", "v", "v"]]
    assert repeats == 1


def test_sessions_are_named_after_their_owner_and_ordered_by_their_last_click():
    clicks = [("b", "v", 0), ("b", "w", 1), ("a", "v", 10), ("b", "x", 5000), ("a", "w", 11)]
    log, _ = cut(raw(clicks), "gap", seconds=600)
    assert log.names.to_list() == ["b/1", "a/1", "b/2"]
    assert log.start.tolist() == [0, 10, 5000]
    assert log.end.tolist() == [1, 11, 5000]


def test_session_column_is_the_default_and_order_only_data_keeps_the_order_of_the_file():
    clicks = [("s2", "v", 9), ("s1", "w", 0), ("s2", "x", 3)]
    data = raw(clicks, owner="session", ordered_only=True)
    assert default_rule(data) == "session"
    log, _ = cut(data, "session", seconds=600)
    assert as_lists(log) == [["x", "v"], ["w"]]
    assert log.names.to_list() == ["s2", "s1"]
    assert default_rule(raw(clicks)) == "gap"
    assert default_rule(raw(clicks, ordered_only=True)) == "user"


@pytest.mark.parametrize(
    ("rule", "data", "message"),
    [
        ("session", raw([("a", "v", 1)]), "data.sessions=session needs a session column"),
        ("user", raw([("a", "v", 1)], owner="session"), "data.sessions=user needs a user column"),
        ("gap", raw([("a", "v", 1)], ordered_only=True), "data.sessions=gap needs timestamps"),
        ("bins", raw([("a", "v", 1)], ordered_only=True), "data.sessions=bins needs timestamps"),
    ],
)
def test_a_rule_the_data_cannot_follow_is_an_error(rule, data, message):
    with pytest.raises(DataError, match=message):
        cut(data, rule, seconds=600)


@settings(max_examples=60, deadline=None)
@given(st.lists(CLICK, min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 4))
def test_the_fixed_point_is_one_and_loses_nothing_it_may_keep(clicks, least, shortest):
    log, _ = cut(raw(clicks), "gap", seconds=10)
    settled = as_lists(settle(log, least, min_length=shortest))
    expected = as_lists(log)
    while True:
        counts = {item: sum(one.count(item) for one in expected) for one in expected for item in one}
        fewer = [[item for item in one if counts[item] >= least] for one in expected]
        fewer = [one for one in fewer if len(one) >= shortest]
        if fewer == expected:
            break
        expected = fewer
    assert [one for one in settled if one] == expected


def test_drop_rare_is_a_single_pass():
    # y is rare; without it the session "w y" is short; without that, w is rare, which one pass leaves in.
    clicks = [("a", "v", 0), ("a", "w", 1), ("b", "w", 0), ("b", "y", 1), ("c", "v", 0), ("c", "v", 1)]
    log, _ = cut(raw(clicks), "user", seconds=1)
    assert as_lists(drop_rare(log, 2, min_length=2)) == [["v", "w"], ["v", "v"]]
    assert as_lists(settle(log, 2, min_length=2)) == [["v", "v"]]


def test_thin_keeps_the_most_recent_sessions_and_samples_by_seed():
    clicks = [(f"u{n}", item, n * 100 + place) for n in range(50) for place, item in enumerate("vw")]
    log, _ = cut(raw([*clicks, ("short", "v", 9999)]), "user", seconds=1)
    options = {"min_length": 2, "seed": 3}
    assert thin(log, sample=None, max_sessions=3, **options).names.to_list() == ["u47", "u48", "u49"]
    sampled = thin(log, sample=0.2, max_sessions=None, **options).names.to_list()
    assert len(set(sampled)) == 10
    assert "short" not in sampled
    assert sampled == thin(log, sample=0.2, max_sessions=None, **options).names.to_list()
    assert sampled != thin(log, sample=0.2, max_sessions=None, min_length=2, seed=4).names.to_list()
    assert thin(log, sample=None, max_sessions=None, **options) is log


def test_take_and_join_undo_each_other():
    log, _ = cut(raw([("a", "v", 0), ("a", "w", 1), ("b", "x", 5), ("c", "y", 7)]), "user", seconds=1)
    parts = [take(log, np.array([number])) for number in range(3)]
    assert as_lists(join(parts)) == as_lists(log)
    assert as_lists(take(log, np.array([2, 0]))) == [["y"], ["v", "w"]]
    assert as_lists(take(log, np.array([True, False, True]))) == [["v", "w"], ["y"]]
