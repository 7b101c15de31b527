"""SLIST against its equations written out, and against numbers derived by hand."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.baselines import ridge
from llm4sbr.baselines.item_to_item import strongest
from llm4sbr.baselines.pairs import PairSums
from llm4sbr.baselines.slist import SLIST, repeated, slis, slit
from llm4sbr.errors import ConfigError
from llm4sbr.fusion.item_item import ItemItem
from llm4sbr.fusion.linear import Linear, decayed
from llm4sbr.protocols import Sessions
from llm4sbr.testing.backbones import pad

ITEMS = 7
session = st.lists(st.integers(1, ITEMS), min_size=1, max_size=8)
histories = st.lists(session, min_size=1, max_size=12)
batches = st.lists(session, min_size=1, max_size=4)


def flat(lists):
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return Sessions(torch.tensor([item for one in lists for item in one]), offsets)


def matrices(history, decay):
    """X, S and T row by row, as the paper has them."""
    whole, before, after = [], [], []
    for one in history:
        whole.append([float(item in one) for item in range(1, ITEMS + 1)])
        for cut in range(1, len(one)):
            source, target = np.zeros(ITEMS), np.zeros(ITEMS)
            for place, item in enumerate(one, 1):
                if place <= cut:
                    source[item - 1] += exp(-(cut - place) / decay)
                else:
                    target[item - 1] += exp(-(place - cut - 1) / decay)
            before.append(source)
            after.append(target)
    return [np.array(rows).reshape(-1, ITEMS) for rows in (whole, before, after)]


@settings(max_examples=60, deadline=None)
@given(histories, st.sampled_from([0.5, 2.0, 100.0]))
def test_pair_sums_equal_the_products_of_the_matrices(history, decay):
    whole, before, after = matrices(history, decay)
    found = PairSums.of(flat(history), ITEMS, decay=decay)
    expected = whole.T @ whole, before.T @ before, before.T @ after
    for sums, product in zip(found, expected, strict=True):
        np.testing.assert_allclose(sums.toarray(), product, rtol=1e-5, atol=1e-3)  # faint pairs are left out


def test_pair_sums_by_hand():
    # Cuts 1 | 2 3 and 1 2 | 3. Sources {1: 1} and {1: rho, 2: 1}, targets {2: 1, 3: rho} and {3: 1}.
    rho = exp(-1 / 2)
    sums = PairSums.of(flat([[1, 2, 3]]), 3, decay=2.0)
    np.testing.assert_array_equal(sums.together.toarray(), np.ones((3, 3)))
    sources = [[1 + rho**2, rho, 0], [rho, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(sums.sources.toarray(), sources, rtol=1e-6)
    np.testing.assert_allclose(sums.onward.toarray(), [[0, 1, 2 * rho], [0, 0, 1], [0, 0, 0]], rtol=1e-6)


def test_slist_by_hand():
    # Four sessions 1, 2. X'X is 4 everywhere; the only source is item 1, S'S = [[4, 0], [0, 0]]; S'T is 4
    # from item 1 to item 2. With b_jj = 0 each item is explained by the other one alone.
    history = flat([[1, 2]] * 4)
    for alpha in (0.0, 0.5, 1.0):
        model = SLIST(2, alpha=alpha, l2=1.0)
        model.fit(history)
        forth = (4 * alpha + 4 * (1 - alpha)) / (4 * alpha + 4 * (1 - alpha) + 1)
        back = 4 * alpha / (4 * alpha + 1)
        scores = model.score(*pad([[1], [2], [1, 2]]))
        older = exp(-1 / 5)
        expected = [[0, forth], [back, 0], [back, older * forth]]
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)


def test_repeats_are_learned_where_sessions_repeat():
    # Item 1 follows itself in each of 4 sessions: S = T = {1: 1}, so b_11 = 4 / (4 + 1).
    model = SLIST(2, alpha=0.0, l2=1.0)
    model.fit(flat([[1, 1]] * 4))
    np.testing.assert_allclose(model.score(*pad([[1], [2]])).numpy(), [[0.8, 0], [0, 0]], rtol=1e-6)


def test_share_of_repeats_by_hand():
    assert repeated(flat([[1, 2, 1], [2, 1], [3, 3, 3]])) == pytest.approx(3 / 8)
    assert repeated(flat([[1, 2], [2, 1]])) == 0


def by_definition(history, alpha, l2, own, decay=2.0):
    whole, before, after = matrices(history, decay)
    gram = alpha * whole.T @ whole + (1 - alpha) * before.T @ before + l2 * np.eye(ITEMS)
    right = alpha * whole.T @ whole + (1 - alpha) * before.T @ after
    if own:
        return np.linalg.solve(gram, right)
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        rest = [other for other in range(ITEMS) if other != item]
        weights[rest, item] = np.linalg.solve(gram[np.ix_(rest, rest)], right[rest, item])
    return weights


@settings(max_examples=60, deadline=None)
@given(histories, batches, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0, 10]))
def test_slist_equals_its_definition(history, batch, alpha, closed_form):
    model = SLIST(ITEMS, alpha=alpha, l2=2.0, closed_form=closed_form)
    model.fit(flat(history))
    weights = by_definition(history, alpha, 2.0, repeated(flat(history)) >= 0.05)
    if closed_form:  # a support leaves out items without products, whose weights may be below 0 only
        expected = np.maximum(weights, 0)
        np.testing.assert_allclose(model.weights.toarray(), expected, atol=1e-3)
    assert bool(model.notes) == (closed_form == 0)
    scores = [
        sum(exp(-back / 5) * model.weights.toarray()[item - 1] for back, item in enumerate(one[::-1]))
        for one in batch
    ]
    np.testing.assert_allclose(model.score(*pad(batch)).numpy(), scores, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(histories, st.booleans(), st.integers(1, 3))
def test_small_systems_equal_the_definition_on_their_support(history, own, support):
    sums = PairSums.of(flat(history), ITEMS, decay=2.0)
    gram = sums.together + sums.sources + 2 * np.eye(ITEMS, dtype=np.float32)
    targets = sums.together + sums.onward
    found = ridge.sparse(ridge.csr_array(gram), targets, own=own, support=support).tocoo()
    gram, targets = np.asarray(gram), targets.toarray()
    for item in range(ITEMS):
        gain = targets[:, item] / np.sqrt(np.diag(gram))
        gain[item] = np.inf if own and targets[item, item] > 0 else 0
        most = np.sort(gain[gain > 0])[::-1][:support]
        chosen = found.row[found.col == item]
        np.testing.assert_allclose(np.sort(gain[chosen])[::-1], most, rtol=1e-5)
        expected = np.linalg.solve(gram[np.ix_(chosen, chosen)], targets[chosen, item])
        np.testing.assert_allclose(found.data[found.col == item], expected, atol=1e-4)


def test_working_in_parts_changes_nothing(monkeypatch):
    random = np.random.default_rng(0)
    history = flat([random.integers(1, ITEMS + 1, size).tolist() for size in random.integers(1, 9, 40)])
    model = SLIST(ITEMS, closed_form=0)
    model.fit(history)
    whole = model.weights.toarray()
    monkeypatch.setattr(ridge, "CELLS", 10)
    model.fit(history)
    np.testing.assert_allclose(model.weights.toarray(), whole, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(histories, batches)
def test_neighbours_score_as_the_model(history, batch):
    model = SLIST(ITEMS, l2=2.0)
    model.fit(flat(history))
    items, mask = pad(batch)
    ids, weights = model.neighbours(ITEMS)
    assert (ids.dtype, weights.dtype, ids.shape) == (torch.int64, torch.float32, (ITEMS, ITEMS))
    assert (weights[:, :-1] >= weights[:, 1:]).all(), "best first"
    assert torch.allclose(decayed(mask, model.decay), model.click_weights(mask))
    found = Linear(ItemItem(ids, weights), decay=model.decay)(items, mask).long
    np.testing.assert_allclose(found.numpy(), model.score(items, mask).numpy(), atol=1e-5)


def test_few_neighbours_are_the_greatest():
    weights = np.array([[0, 3, -9, 2], [1, 0, 1, 5], [0, 0, 0, 0], [4, 1, 2, 0]], np.float32)
    for given_as in (weights, ridge.csr_array(weights)):
        kept = strongest(given_as, 2).toarray()
        np.testing.assert_array_equal(kept[[0, 2, 3]], [[0, 3, 0, 2], [0, 0, 0, 0], [4, 0, 2, 0]])
        assert kept[1].tolist() in ([1, 0, 0, 5], [0, 0, 1, 5])


def test_the_parts_of_the_model():
    assert (slis(3).alpha, slit(3).alpha) == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha = 1.5"),
        ({"l2": 0}, "l2 = 0"),
        ({"decay": -1}, "decay = -1"),
        ({"cut_decay": 0}, "cut_decay = 0"),
        ({"neighbours": 0}, "neighbours = 0"),
        ({"support": 0}, "support = 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        SLIST(3, **options)
