"""The baselines against their definitions, written out in loops, and against numbers derived by hand."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations
from math import exp, inf, log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.baselines import incidence
from llm4sbr.baselines.incidence import Incidence
from llm4sbr.baselines.item_knn import ItemKNN
from llm4sbr.baselines.popularity import Popularity
from llm4sbr.baselines.rules import association, markov, sequential
from llm4sbr.baselines.s_pop import SessionPopularity
from llm4sbr.baselines.sf_sknn import SFSKNN
from llm4sbr.baselines.stan import STAN, vstan
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


def decayed_sum(weights, one, decay):
    """Rows of weights (N, N) of the clicked items, summed; with decay = 0 that of the last one."""
    ages = range(len(one) - 1, -1, -1)
    factors = [exp(-age / decay) if decay else float(age == 0) for age in ages]
    return sum(factor * weights[item - 1] for factor, item in zip(factors, one, strict=True))


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
@given(histories, batches, st.sampled_from([0.0, 20.0]), st.sampled_from([0.0, 2.0]))
def test_item_knn_equals_its_definition(history, batch, regularisation, decay):
    baseline = fitted(ItemKNN(ITEMS, regularisation=regularisation, decay=decay), history)
    rows = [item_knn_by_definition(history, item, regularisation) for item in range(1, ITEMS + 1)]
    close(baseline.score(*pad(batch)), [decayed_sum(np.stack(rows), one, decay) for one in batch])


def test_item_knn_by_hand():
    # Item 1 is in 2 sessions (a repeat counts once), item 2 in 3, item 3 in 1.
    # Items 1 and 2 meet twice, 1 and 3 once.
    history = [[1, 2, 1], [2, 1, 3], [2]]
    baseline = fitted(ItemKNN(3, regularisation=0.0, decay=0.0), history)
    close(baseline.score(*pad([[3, 1]])), [[0, 2 / sqrt(6), 1 / sqrt(2)]])
    baseline = fitted(ItemKNN(3, regularisation=2.0, decay=0.0), history)
    close(baseline.score(*pad([[3, 1]])), [[0, 2 / sqrt(4 * 5), 1 / sqrt(4 * 3)]])
    baseline = fitted(ItemKNN(3, regularisation=0.0, decay=2.0), history)
    older = exp(-1 / 2)  # item 3 was clicked before; it shares a session with 1 and with 2
    close(
        baseline.score(*pad([[3, 1]])),
        [[older / sqrt(2), 2 / sqrt(6) + older / sqrt(3), 1 / sqrt(2)]],
    )


def test_item_knn_keeps_the_most_similar():
    history = [[1, 2], [1, 2], [1, 3], [1, 4], [1, 5], [5]]
    close_to_1 = {n: fitted(ItemKNN(5, neighbours=n), history).score(*pad([[1]]))[0] for n in (1, 2, 4)}
    assert close_to_1[1].nonzero().flatten().tolist() == [1]
    assert close_to_1[2].nonzero().flatten().tolist() == [1, 2]  # 3 and 4 tie for the second place
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
    return scores


@settings(max_examples=80, deadline=None)
@given(histories, batches, st.sampled_from([1, 3, 50]), st.sampled_from([1, 2, 50]))
def test_vmis_knn_equals_its_definition(history, batch, m, k):
    baseline = fitted(VMISKNN(ITEMS, m=m, k=k), history)
    expected = [vmis_knn_by_definition(history, one, m, k) for one in batch]
    close(baseline.score(*pad(batch)), expected)


def rules_by_definition(history, kind):
    weights = np.zeros((ITEMS, ITEMS))
    for one in history:
        if kind == "ar":
            for i, j in permutations(set(one), 2):
                weights[i - 1, j - 1] += 1 / sum(i in other for other in history)
            continue
        for x, y in combinations(range(len(one)), 2):
            if kind == "sr" or y == x + 1:
                clicks = sum(other.count(one[x]) for other in history)
                weights[one[x] - 1, one[y] - 1] += 1 / (y - x) / clicks
    return weights


@settings(max_examples=40, deadline=None)
@given(histories, batches, st.sampled_from([("ar", association), ("sr", sequential), ("markov", markov)]))
def test_rules_equal_their_definition(history, batch, rule):
    kind, make = rule
    expected = rules_by_definition(history, kind)
    for decay in (0.0, 2.0):
        found = fitted(make(ITEMS, decay=decay), history).score(*pad(batch))
        close(found, [decayed_sum(expected, one, decay) for one in batch])


def test_rules_by_hand():
    # Item 1 is in both sessions and clicked three times; item 2 is one and two clicks behind it, then one.
    history = [[1, 1, 2], [1, 2, 3]]
    last = pad([[3, 1]])
    close(fitted(association(3, decay=0.0), history).score(*last), [[0, 1, 1 / 2]])
    close(fitted(markov(3, decay=0.0), history).score(*last), [[1 / 3, 2 / 3, 0]])
    close(fitted(sequential(3, decay=0.0), history).score(*last), [[1 / 3, (1 / 2 + 1 + 1) / 3, 1 / 6]])
    close(fitted(sequential(3, steps=1, decay=0.0), history).score(*last), [[1 / 3, 2 / 3, 0]])


def stan_by_definition(history, current, *, m, k, session=2.0, age=inf, item=2.0, match=inf, idf=0.0):
    """The docstring's formulas, one session at a time."""
    places = {item: place for place, item in enumerate(current, 1)}
    weight = {item: exp((place - len(current)) / session) for item, place in places.items()}
    norm = sqrt(sum(value**2 for value in weight.values()))

    def similarity(n):
        held = set(history[n])
        cosine = sum(weight[item] for item in places.keys() & held) / (norm * sqrt(len(held)))
        return cosine * exp(-(len(history) - 1 - n) / max(1, len(history) - 1) / age)

    sharing = [number for number, one in enumerate(history) if places.keys() & set(one)]
    nearest = sorted(sorted(sharing, reverse=True)[:m], key=lambda n: (-round(similarity(n), 9), -n))[:k]
    scores = np.zeros(ITEMS)
    for n in nearest:
        star = max(places.keys() & set(history[n]), key=places.get)
        place = {other: number for number, other in enumerate(history[n], 1)}
        late = exp((places[star] - len(current)) / match)
        for other in place:
            rare = 1 + idf * log(len(history) / sum(other in one for one in history))
            near = exp(-abs(place[other] - place[star]) / item)
            scores[other - 1] += similarity(n) * near * late * rare
    return scores


@settings(max_examples=60, deadline=None)
@given(histories, batches, st.sampled_from([1, 3, 50]), st.sampled_from([2, 50]))
def test_stan_and_vstan_equal_their_definition(history, batch, m, k):
    if k < 50:  # sums of the same weights in another order need not tie
        history, batch = history[:1] * 5, batch[:1]
    for options in ({}, {"session": 1.0, "age": 0.3, "item": 3.0, "match": 1.5, "idf": 2.0}):
        found = fitted(STAN(ITEMS, m=m, k=k, **options), history).score(*pad(batch))
        close(found, [stan_by_definition(history, one, m=m, k=k, **options) for one in batch])


def test_stan_by_hand():
    # w = e^-1/2 for item 1 and 1 for item 2, norm^2 = 1 + e^-1. Session 0 shares both, two items behind each
    # other; its latest shared item 2 stands second. Session 1 shares item 1 alone, item 4 next to it.
    old, norm = exp(-1 / 2), sqrt(1 + exp(-1))
    first, second = (old + 1) / (norm * sqrt(3)), old / (norm * sqrt(2))
    near = exp(-1 / 2)
    scores = fitted(STAN(ITEMS, session=2.0, item=2.0), [[1, 2, 3], [1, 4]]).score(*pad([[1, 2]]))
    expected = [first * near + second, first, first * near, second * near, 0, 0, 0]
    close(scores, [expected])
    # Session 1 is matched one click back; each item but 1 is in one of two sessions.
    scores = fitted(vstan(ITEMS, session=2.0, item=2.0, match=2.0, idf=1.0), [[1, 2, 3], [1, 4]])
    rare, late = 1 + log(2), exp(-1 / 2)
    expected = [first * near + second * late, first * rare, first * near * rare, second * late * near * rare]
    close(scores.score(*pad([[1, 2]])), [[*expected, 0, 0, 0]])


def sf_sknn_by_definition(history, current, m, k):
    sharing = [number for number, one in enumerate(history) if set(current) & set(one)]

    def similarity(n):
        return len(set(current) & set(history[n])) / sqrt(len(set(current)) * len(set(history[n])))

    nearest = sorted(sorted(sharing, reverse=True)[:m], key=lambda n: (-similarity(n), -n))[:k]
    scores = np.zeros(ITEMS)
    for n in nearest:
        for item in {after for before, after in pairwise(history[n]) if before == current[-1]}:
            scores[item - 1] += similarity(n)
    return scores


@settings(max_examples=60, deadline=None)
@given(histories, batches, st.sampled_from([1, 3, 50]), st.sampled_from([1, 2, 50]))
def test_sf_sknn_equals_its_definition(history, batch, m, k):
    found = fitted(SFSKNN(ITEMS, m=m, k=k), history).score(*pad(batch))
    close(found, [sf_sknn_by_definition(history, one, m, k) for one in batch])


def test_sf_sknn_by_hand():
    # Session 0 shares 1 and 2 of its three items, and has 3 behind 2. Session 1 shares 2 and has 4 behind it,
    # twice. Session 2 shares both and has nothing behind 2.
    scores = fitted(SFSKNN(ITEMS), [[1, 2, 3], [2, 4, 2, 4], [2, 1, 2]]).score(*pad([[1, 2]]))
    close(scores, [[1, 0, 2 / sqrt(2 * 3), 1 / sqrt(2 * 2), 0, 0, 0]])


HISTORY = [[1, 2, 3], [2, 4], [3, 5], [6]]
CURRENT = [1, 2, 3]
"""pi = 1/3, 2/3, 1. Session 0 shares all: r = 2, its latest shared item is the last click: l = 0.9. Session 1
shares item 2: r = 2/3, one click further back: l = 0.8. Session 2 shares item 3: r = 1, l = 0.9."""


def test_vmis_knn_by_hand():
    scores = fitted(VMISKNN(ITEMS), HISTORY).score(*pad([CURRENT]))
    first, second, third = 0.9 * 2, 0.8 * 2 / 3, 0.9 * 1
    # Items 1, 4 and 5 are in one of 4 sessions, items 2 and 3 in two.
    both = [(first + second) * log(2), (first + third) * log(2)]
    close(scores, [[first * log(4), *both, second * log(4), third * log(4), 0, 0]])


def test_vmis_knn_looks_at_recent_sessions_and_hears_the_nearest():
    recent = fitted(VMISKNN(ITEMS, m=2), HISTORY).score(*pad([CURRENT]))[0]
    assert recent.nonzero().flatten().tolist() == [1, 2, 3, 4]  # session 0 is the oldest: item 1 has no vote
    nearest = fitted(VMISKNN(ITEMS, k=2), HISTORY).score(*pad([CURRENT]))[0]
    assert nearest.nonzero().flatten().tolist() == [
        0,
        1,
        2,
        4,
    ]  # session 1 is the farthest: no vote for item 4
    tied = fitted(VMISKNN(ITEMS, k=1), [[1, 2], [1, 3], [4]]).score(*pad([[1]]))[0]
    assert tied.nonzero().flatten().tolist() == [0, 2]  # equally near: the more recent one


def test_vmis_knn_forgets_what_is_ten_clicks_back():
    baseline = fitted(VMISKNN(ITEMS), [[1, 2], [3, 4]])
    close(
        baseline.score(*pad([[1] + [3] * 9])),
        vmis_knn_by_definition([[1, 2], [3, 4]], [1] + [3] * 9, 50, 50)[None],
    )
    assert baseline.score(*pad([[1] + [3] * 9]))[0, 1] == 0
    assert baseline.score(*pad([[1] + [3] * 8]))[0, 1] > 0


def test_unseen_items_have_no_neighbours():
    for make in (VMISKNN, ItemKNN, STAN, vstan, SFSKNN, association, markov, sequential):
        assert not fitted(make(ITEMS), [[1, 2], [2, 3]]).score(*pad([[7]])).any()
        assert not make(ITEMS).score(*pad([[1, 2]])).any()


@pytest.mark.parametrize("make", [VMISKNN, STAN, vstan, SFSKNN])
def test_working_in_parts_changes_nothing(make, monkeypatch):
    random = np.random.default_rng(0)
    history = [random.integers(1, ITEMS + 1, size).tolist() for size in random.integers(1, 9, 40)]
    batch = pad([random.integers(1, ITEMS + 1, size).tolist() for size in random.integers(1, 9, 10)])
    whole = fitted(make(ITEMS), history).score(*batch)
    monkeypatch.setattr(incidence, "MOST_PAIRS", 5)
    assert len(incidence.chunks(np.array([3, 3, 9, 1]))) > 2
    assert torch.equal(fitted(make(ITEMS), history).score(*batch), whole)


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
        (lambda: ItemKNN(3, decay=-1), "decay = -1"),
        (lambda: sequential(3, steps=0), "steps = 0"),
        (lambda: association(3, neighbours=0), "neighbours = 0"),
        (lambda: markov(3, decay=-1), "decay = -1"),
        (lambda: STAN(3, k=0), "k = 0"),
        (lambda: STAN(3, item=0), "item = 0"),
        (lambda: vstan(3, idf=-1), "idf = -1"),
        (lambda: SFSKNN(3, m=0), "m = 0"),
        (lambda: VMISKNN(3, m=0), "m = 0"),
        (lambda: VMISKNN(3, k=0), "k = 0"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
