"""GCE-GNN against its paper's equations in NumPy, and its global graph against counting by hand."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.backbones.gce_gnn import GCEGNN
from llm4sbr.backbones.global_graph import co_occurrence
from llm4sbr.protocols import Sessions
from llm4sbr.testing.backbones import pad

ITEMS = 7
TRAINING = [[1, 2, 3, 4], [2, 1, 2, 5], [3, 3, 6], [4]]
"""Item 7 never occurs, so it has no neighbours."""
SESSION = [2, 7, 2, 4, 3, 4, 2]
"""2 <-> 7, 2 -> 4, 4 <-> 3, 4 -> 2: every relation occurs."""


def flat(lists):
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return Sessions(torch.tensor([item for one in lists for item in one], dtype=torch.int64), offsets)


def count_neighbours(lists, window):
    """How often each ordered pair of items is at most `window` clicks apart."""
    counts = Counter()
    for session in lists:
        for place, item in enumerate(session):
            for other in session[place + 1 : place + 1 + window]:
                if other != item:
                    counts[item, other] += 1
                    counts[other, item] += 1
    return counts


lists_of_sessions = st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=8), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(lists_of_sessions, st.integers(1, 4), st.integers(1, 8))
def test_neighbours_equal_counting(lists, window, size):
    found = co_occurrence(flat(lists), num_items=ITEMS, window=window, size=size)
    counts = count_neighbours(lists, window)
    for item in range(1, ITEMS + 1):
        ranked = sorted((-n, b) for (a, b), n in counts.items() if a == item)[:size]
        blank = [0] * (size - len(ranked))
        assert found.items[item - 1].tolist() == [b for _, b in ranked] + blank
        assert found.weights[item - 1].tolist() == [-n for n, _ in ranked] + blank


def test_neighbours_by_hand():
    # Window 1: 1-2 meet in the first session once and in the second twice; 3 next to itself does not count.
    found = co_occurrence(flat(TRAINING), num_items=ITEMS, window=1, size=2)
    assert found.items.tolist() == [[2, 0], [1, 3], [2, 4], [3, 0], [2, 0], [3, 0], [0, 0]]
    assert found.weights.tolist() == [[3, 0], [3, 1], [1, 1], [1, 0], [1, 0], [1, 0], [0, 0]]


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def session_level(w, session):
    """h^s of each click: attention over the item's neighbours in the session's graph, by relation."""
    h = {item: w["items"][item - 1] for item in session}
    edges = set(pairwise(session))
    by_self, by_in, by_out, by_both = w["local.relations"]
    result = {}
    for i in h:
        logits, near = [], []
        for j in h:
            if i == j:
                a = by_self
            elif (i, j) in edges and (j, i) in edges:
                a = by_both
            elif (i, j) in edges:
                a = by_out
            elif (j, i) in edges:
                a = by_in
            else:
                continue
            logits.append(leaky(a @ (h[i] * h[j])))
            near.append(h[j])
        result[i] = softmax(np.array(logits)) @ np.array(near)
    return [result[item] for item in session]


def global_level(w, session, lists, size, window):
    """h^g of each click: attention over the item's neighbours in all sessions, seen from this one."""
    h, dim = w["items"], w["items"].shape[1]
    counts = count_neighbours(lists, window)
    s = np.mean([h[item - 1] for item in session], 0)
    w_1 = np.concatenate([w["world.match"], w["world.strength"][None]])  # (D + 1, D)
    result = []
    for item in session:
        ranked = sorted((-n, b) for (a, b), n in counts.items() if a == item)[:size]
        around = np.zeros(dim)
        if ranked:
            most = -ranked[0][0]
            inputs = [np.append(s * h[b - 1], -n / most) for n, b in ranked]
            pi = np.array([w["world.attention"] @ leaky(x @ w_1) for x in inputs])
            around = softmax(pi) @ np.array([h[b - 1] for _, b in ranked])
        merged = w["world.merge.weight"] @ np.concatenate([h[item - 1], around])
        result.append(np.maximum(merged, 0))
    return result


def soft_attention(w, clicks):
    """The session's vector from its clicks' states, counted from the end."""
    mean = np.mean(clicks, 0)
    result = np.zeros_like(mean)
    for t, x in enumerate(clicks):
        place = w["readout.positions"][min(len(clicks) - 1 - t, len(w["readout.positions"]) - 1)]
        w_1 = np.concatenate([w["readout.from_state.weight"], w["readout.from_position.weight"]], 1)
        z = np.tanh(w_1 @ np.concatenate([x, place]) + w["readout.from_position.bias"])
        inner = w["readout.from_place.weight"] @ z + w["readout.from_place.bias"]
        inner = inner + w["readout.from_mean.weight"] @ mean
        result += (w["readout.attention.weight"][0] @ (1 / (1 + np.exp(-inner)))) * x
    return result


def test_equals_its_paper():
    torch.manual_seed(0)
    model = GCEGNN(ITEMS, 8, neighbours=3, window=2, positions=5).eval()
    model.fit(flat(TRAINING))
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    local = session_level(w, SESSION)
    world = global_level(w, SESSION, TRAINING, size=3, window=2)
    clicks = [a + b for a, b in zip(local, world, strict=True)]
    encoded = model(*pad([SESSION, [1, 2, 3, 4, 5, 6, 1, 3, 2]]))
    np.testing.assert_allclose(encoded.states[0, : len(SESSION)].detach().numpy(), clicks, atol=1e-5)
    np.testing.assert_allclose(encoded.long[0].detach().numpy(), soft_attention(w, clicks), atol=1e-5)
    np.testing.assert_allclose(encoded.short[0].detach().numpy(), clicks[-1], atol=1e-5)


def test_global_graph_matters():
    torch.manual_seed(0)
    model = GCEGNN(ITEMS, 8).eval()
    before = model(*pad([SESSION])).long
    model.fit(flat(TRAINING))
    assert not torch.allclose(model(*pad([SESSION])).long, before, atol=1e-4)


def test_unseen_item_is_scored_without_neighbours():
    torch.manual_seed(0)
    model = GCEGNN(ITEMS, 8).eval()
    alone = model(*pad([[7]])).long
    model.fit(flat(TRAINING))
    assert torch.equal(model(*pad([[7]])).long, alone)
