"""KMVG against the equations of its module, one item and one pair of items at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from formulas import COMPANY, SESSION, found, linear, sigmoid, softmax, weights_of
from llm4sbr_sequential.kmvg import KMVG, KnowledgeView

from llm4sbr.protocols import Sessions
from llm4sbr.testing.backbones import pad

TRAINING = [[1, 2, 3, 1], [2, 5, 4], [4, 5]]
NEAR = {1: [2, 3], 2: [1, 3, 5], 3: [1, 2], 4: [5], 5: [4, 2], 6: []}
"""Clicks next to each other in TRAINING; item 6 has none."""


def knowledge(w, hops):
    """k of every item."""
    layer, total = dict(enumerate(w["items"], 1)), dict.fromkeys(NEAR, 0)
    for _ in range(hops):
        after = {}
        for item, near in NEAR.items():
            near = near or [item]
            drive = w["knowledge.match.weight"] @ layer[item]
            a = softmax(np.array([np.tanh(w["knowledge.match.weight"] @ layer[j]) @ drive for j in near]))
            after[item] = sum(one * layer[j] for one, j in zip(a, near, strict=True))
        layer = after
        total = {item: total[item] + layer[item] for item in total}
    return {item: one / hops for item, one in total.items()}


def view(w, x):
    """The session view of x, by item; relations self, in, out, both."""
    edges, after = set(pairwise(SESSION)), {}
    for i in x:
        logits = {}
        for j in x:
            out, into = (i, j) in edges, (j, i) in edges
            relation = 0 if i == j else 3 if out and into else 2 if out else 1 if into else None
            if relation is not None:
                z = x[i] * x[j]
                logits[j] = w["session.relations"][relation] @ np.where(z >= 0, z, 0.2 * z)
        a = softmax(np.array(list(logits.values())))
        after[i] = sum(one * x[j] for one, j in zip(a, logits, strict=True))
    return after


@pytest.mark.parametrize("hops", [1, 3])
def test_kmvg(hops):
    torch.manual_seed(0)
    model = KMVG(6, 8, hops=hops, window=1, positions=4)
    offsets = torch.tensor([0, *np.cumsum([len(one) for one in TRAINING])])
    model.fit(Sessions(torch.tensor([item for one in TRAINING for item in one]), offsets))
    assert [sorted(one for one in row if one) for row in model.neighbours.tolist()] == [
        sorted(near) for near in NEAR.values()
    ]
    w = weights_of(model)
    model.eval()
    e = {item: w["items"][item - 1] for item in SESSION}
    k = {item: one for item, one in knowledge(w, hops).items() if item in e}
    by_item = [view(w, one) for one in (e, k)]
    h = [by_item[0][item] + by_item[1][item] for item in SESSION]
    mean, long = np.mean(h, 0), 0
    for t, one in enumerate(h):
        place = linear(w, "readout.from_position", w["readout.positions"][min(len(h) - 1 - t, 3)])
        z = np.tanh(w["readout.from_state.weight"] @ one + place)
        gate = sigmoid(linear(w, "readout.from_place", z) + w["readout.from_mean.weight"] @ mean)
        long = long + (w["readout.attention.weight"] @ gate) * one
    clicks = np.array([e[item] for item in SESSION])
    f = (sigmoid(clicks.sum(0) ** 2) - sigmoid((clicks**2).sum(0))) / (2 * len(SESSION))
    given = found(model)
    np.testing.assert_allclose(given[0], long + f, atol=1e-5)
    np.testing.assert_allclose(given[1], h[-1], atol=1e-5)
    np.testing.assert_allclose(given[2], w["items"])


def test_kmvg_trains_with_what_it_scores_with():
    torch.manual_seed(0)
    model = KMVG(6, 8, dropout=0.0)
    model.fit(Sessions(torch.tensor(SESSION + COMPANY), torch.tensor([0, 7, 17])))
    batch = pad([SESSION, COMPANY])
    torch.testing.assert_close(model.train()(*batch).long, model.eval()(*batch).long)
    other = KMVG(6, 8, dropout=0.0).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*batch).long, model(*batch).long)


def test_kmvg_knows_of_an_item_what_its_neighbours_are():
    # By hand: item 1 has neighbour 2 alone, whatever the weights; item 3 has none and so itself.
    table = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    found = KnowledgeView(2, hops=1, dropout=0.0)(table, torch.tensor([[2, 0], [1, 0], [0, 0]]))
    torch.testing.assert_close(found, table[[1, 0, 2]])
