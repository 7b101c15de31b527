"""The baselines against their definitions, written out in loops, and against numbers derived by hand."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.baselines import incidence
from llm4sbr.baselines.incidence import Incidence
from llm4sbr.baselines.item_knn import ItemKNN
from llm4sbr.baselines.popularity import Popularity
from llm4sbr.baselines.s_pop import SessionPopularity
from llm4sbr.baselines.vmis_knn import VMISKNN
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions
from llm4sbr.testing.backbones import pad

ITEMS = 7
session = st.lists(st.integers(1, ITEMS), min_size=1, max_size=8)
histories = st.lists(session, min_size=1, max_size=12)
batches = st.lists(session, min_size=1, max_size=4)


def flat(lists):
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return Sessions(torch.tensor([item for one in lists for item in one]), offsets)


def fitted(baseline, lists):
    baseline.fit(flat(lists))
    return baseline


def close(found, expected):
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_popularity_counts_clicks():
    popularity = fitted(Popularity(4), [[1, 2, 1], [2, 1]])
    close(popularity.score(*pad([[3], [1, 1]])), [[3, 2, 0, 0]] * 2)


def test_s_pop_by_hand():
    # Clicks 3, 1, 1, 0: distinct counts 0, 1, 3 have ranks 0, 1/3, 2/3.
    baseline = fitted(SessionPopularity(4), [[1, 2, 1], [3, 1]])
    expected = [[2 / 3, 2 + 1 / 3, 1 / 3, 1], [1 + 2 / 3, 1 / 3, 1 / 3, 0]]
    close(baseline.score(*pad([[2, 4, 2], [1]])), expected)


def test_s_pop_tells_close_popularities_apart():
    # 100,000 and 100,001 clicks: n / (n + 1) would be one number in single precision.
    clicks = torch.cat([torch.full((100_000,), 1), torch.full((100_001,), 2)])
    baseline = SessionPopularity(3)
    baseline.fit(Sessions(clicks, torch.tensor([0, len(clicks)])))
    scores = baseline.score(*pad([[3] * 50]))
    assert scores[0, 1] > scores[0, 0]


def item_knn_by_definition(history, last, regularisation):
    holding = [set(one) for one in history]
    counts = [sum(item in one for one in holding) for item in range(1, ITEMS + 1)]
    scores = np.zeros(ITEMS)
    for other in range(1, ITEMS + 1):
        shared = sum(last in one and other in one for one in holding)
        if other != last and shared:
            pair = (counts[last - 1] + regularisation) * (counts[other - 1] + regularisation)
            scores[other - 1] = shared / sqrt(pair)
    return scores


@settings(max_examples=40, deadline=None)
@given(histories, batches, st.sampled_from([0.0, 20.0]))
def test_item_knn_equals_its_definition(history, batch, regularisation):
    baseline = fitted(ItemKNN(ITEMS, regularisation=regularisation), history)
    expected = [item_knn_by_definition(history, one[-1], regularisation) for one in batch]
    close(baseline.score(*pad(batch)), expected)


def test_item_knn_by_hand():
    # Item 1 is in 2 sessions (a repeat counts once), item 2 in 3, item 3 in 1.
    # Items 1 and 2 meet twice, 1 and 3 once.
    baseline = fitted(ItemKNN(3, regularisation=0.0), [[1, 2, 1], [2, 1, 3], [2]])
    close(baseline.score(*pad([[3, 1]])), [[0, 2 / sqrt(6), 1 / sqrt(2)]])
    baseline = fitted(ItemKNN(3, regularisation=2.0), [[1, 2, 1], [2, 1, 3], [2]])
    close(baseline.score(*pad([[3, 1]])), [[0, 2 / sqrt(4 * 5), 1 / sqrt(4 * 3)]])


def test_item_knn_keeps_the_most_similar_and_their_ties():
    history = [[1, 2], [1, 2], [1, 3], [1, 4], [1, 5], [5]]
    close_to_1 = {n: fitted(ItemKNN(5, neighbours=n), history).score(*pad([[1]]))[0] for n in (1, 2, 4)}
    assert close_to_1[1].nonzero().flatten().tolist() == [1]
    assert close_to_1[2].nonzero().flatten().tolist() == [1, 2, 3]  # 3 and 4 tie for the second place
    assert close_to_1[4].nonzero().flatten().tolist() == [1, 2, 3, 4]


def vmis_knn_by_definition(history, current, m, k):
    """The docstring's formulas, one session at a time."""
    places = {item: place for place, item in enumerate(current, 1)}  # the last click on an item stays
    sharing = [number for number, one in enumerate(history) if places.keys() & set(one)]
    recent = sorted(sharing, reverse=True)[:m]
    overlap = {n: sum(places[item] for item in places.keys() & set(history[n])) for n in recent}
    nearest = sorted(recent, key=lambda n: (-overlap[n], -n))[:k]
    scores = np.zeros(ITEMS)
    for n in nearest:
        latest = max(places[item] for item in places.keys() & set(history[n]))
        back = len(current) - latest + 1
        weight = max(0, 1 - 0.1 * back) * overlap[n] / len(places)
        for item in set(history[n]):
            holding = sum(item in one for one in history)
            scores[item - 1] += weight * log(len(history) / holding)
    scores[current[-1] - 1] = 0
    return scores


@settings(max_examples=80, deadline=None)
@given(histories, batches, st.sampled_from([1, 3, 50]), st.sampled_from([1, 2, 50]))
def test_vmis_knn_equals_its_definition(history, batch, m, k):
    baseline = fitted(VMISKNN(ITEMS, m=m, k=k), history)
    expected = [vmis_knn_by_definition(history, one, m, k) for one in batch]
    close(baseline.score(*pad(batch)), expected)


HISTORY = [[1, 2, 3], [2, 4], [3, 5], [6]]
CURRENT = [1, 2, 3]
"""pi = 1/3, 2/3, 1. Session 0 shares all: r = 2, its latest shared item is the last click: l = 0.9. Session 1
shares item 2: r = 2/3, one click further back: l = 0.8. Session 2 shares item 3: r = 1, l = 0.9."""


def test_vmis_knn_by_hand():
    scores = fitted(VMISKNN(ITEMS), HISTORY).score(*pad([CURRENT]))
    first, second, third = 0.9 * 2, 0.8 * 2 / 3, 0.9 * 1
    # Items 1, 4 and 5 are in one of 4 sessions, item 2 in two; item 3 is the last item and scores 0.
    expected = [first * log(4), (first + second) * log(2), 0, second * log(4), third * log(4), 0, 0]
    close(scores, [expected])


def test_vmis_knn_looks_at_recent_sessions_and_hears_the_nearest():
    recent = fitted(VMISKNN(ITEMS, m=2), HISTORY).score(*pad([CURRENT]))[0]
    assert recent.nonzero().flatten().tolist() == [1, 3, 4]  # session 0 is the oldest: item 1 has no vote
    nearest = fitted(VMISKNN(ITEMS, k=2), HISTORY).score(*pad([CURRENT]))[0]
    assert nearest.nonzero().flatten().tolist() == [0, 1, 4]  # session 1 is the farthest: no vote for item 4
    tied = fitted(VMISKNN(ITEMS, k=1), [[1, 2], [1, 3], [4]]).score(*pad([[1]]))[0]
    assert tied.nonzero().flatten().tolist() == [2]  # equally near: the more recent one


def test_vmis_knn_forgets_what_is_ten_clicks_back():
    baseline = fitted(VMISKNN(ITEMS), [[1, 2], [3, 4]])
    close(
        baseline.score(*pad([[1] + [3] * 9])),
        vmis_knn_by_definition([[1, 2], [3, 4]], [1] + [3] * 9, 50, 50)[None],
    )
    assert baseline.score(*pad([[1] + [3] * 9]))[0, 1] == 0
    assert baseline.score(*pad([[1] + [3] * 8]))[0, 1] > 0


def test_unseen_items_have_no_neighbours():
    for baseline in (VMISKNN(ITEMS), ItemKNN(ITEMS)):
        assert not fitted(baseline, [[1, 2], [2, 3]]).score(*pad([[7]])).any()
        assert not type(baseline)(ITEMS).score(*pad([[1, 2]])).any()


@pytest.mark.parametrize("make", [lambda: ItemKNN(ITEMS), lambda: VMISKNN(ITEMS)])
def test_working_in_parts_changes_nothing(make, monkeypatch):
    random = np.random.default_rng(0)
    history = [random.integers(1, ITEMS + 1, size).tolist() for size in random.integers(1, 9, 40)]
    batch = pad([random.integers(1, ITEMS + 1, size).tolist() for size in random.integers(1, 9, 10)])
    whole = fitted(make(), history).score(*batch)
    monkeypatch.setattr(incidence, "MOST_PAIRS", 5)
    monkeypatch.setattr("llm4sbr.baselines.item_knn.MOST_CELLS", 2 * ITEMS)
    assert len(incidence.chunks(np.array([3, 3, 9, 1]))) > 2
    assert torch.equal(fitted(make(), history).score(*batch), whole)


@settings(max_examples=40, deadline=None)
@given(histories)
def test_incidence_holds_every_pair_once(history):
    index = Incidence.of(flat(history), ITEMS)
    for number, one in enumerate(history):
        assert index.items.take(np.array([number]))[0].tolist() == sorted({item - 1 for item in one})
    for item in range(ITEMS):
        expected = [number for number, one in reversed(list(enumerate(history))) if item + 1 in one]
        assert index.sessions.take(np.array([item]))[0].tolist() == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ItemKNN(3, regularisation=-1), "regularisation = -1"),
        (lambda: ItemKNN(3, neighbours=0), "neighbours = 0"),
        (lambda: VMISKNN(3, m=0), "m = 0"),
        (lambda: VMISKNN(3, k=0), "k = 0"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
