"""HIDE against the equations of its module, one edge and one item at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from formulas import SESSION, found, linear, sigmoid, softmax, unit, weights_of
from llm4sbr_sequential.hide import HIDE, shared_edges

from llm4sbr.backbones.graph import same_item
from llm4sbr.testing.backbones import pad


def leaky(x):
    return np.where(x >= 0, x, 0.2 * x)


def hyperedges(session, window):
    """(type, set of items) of every edge that does not depend on the intent, in order."""
    edges = []
    for size in range(2, window + 1):
        edges += [(0, set(session[i : i + size])) for i in range(len(session) - size + 1)]
    for item in dict.fromkeys(session):
        edges.append((1, {item} | {b for a, b in pairwise(session) if a == item}))
    return edges


def intent_edge(x, p, share):
    """The items whose vectors are nearest to the intent's by direction."""
    order = sorted(x, key=lambda item: -unit(x[item]) @ unit(p))
    return 2, set(order[: int(share * len(x)) + 1])


def rounds(w, k, x, c, edges, layers):
    """Items -> sum over the layers of their states, from items to edges and back."""
    total = dict.fromkeys(x, 0)
    for _ in range(layers):
        g = []
        for kind, members in edges:
            members = sorted(members)
            u = sum(x[v] for v in members)
            a = softmax([leaky(w["attention.to_edges"][k, kind] @ (u * x[v])) for v in members])
            g.append(sum(one * x[v] for one, v in zip(a, members, strict=True)))
        after = {}
        for v in x:
            mine = [e for e, (_, members) in enumerate(edges) if v in members]
            b = [leaky(w["attention.to_items"][k, edges[e][0]] @ (g[e] * (x[v] + c))) for e in mine]
            after[v] = sum(one * g[e] for one, e in zip(softmax(b), mine, strict=True))
        x = after
        total = {v: total[v] + x[v] for v in x}
    return total


def states_of(w, session, *, intents, window, share, layers):
    """h of every item, as an array (K, d)."""
    parts = {v: np.split(w["items"][v - 1], intents) for v in session}
    mean = np.split(np.mean([w["items"][v - 1] for v in session], 0), intents)
    p = np.split(w["items"].mean(0), intents)
    h = {v: [] for v in parts}
    for k in range(intents):
        x = {v: parts[v][k] for v in parts}
        edges = [*hyperedges(session, window), intent_edge(x, p[k], share)]
        for v, one in rounds(w, k, x, mean[k], edges, layers).items():
            h[v].append(one + one * sigmoid(one * p[k]))
    return {v: np.array(one) for v, one in h.items()}


@pytest.mark.parametrize(
    ("intents", "window", "share", "layers"), [(4, 6, 0.4, 1), (1, 2, 0.0, 1), (2, 9, 0.7, 2)]
)
def test_hide(intents, window, share, layers):
    torch.manual_seed(0)
    chosen = {"intents": intents, "window": window, "share": share, "layers": layers}
    model = HIDE(6, 8, **chosen, scale=3.0, positions=5).eval()
    w = weights_of(model)
    model.eval()
    states = states_of(w, SESSION, **chosen)
    h = [states[item].ravel() for item in SESSION]
    d = linear(w, "readout.from_session", np.concatenate([np.mean(h, 0), h[-1]]))
    long = 0
    for t, one in enumerate(h):
        q = w["readout.positions"][min(len(h) - 1 - t, 4)]
        n = np.tanh(linear(w, "readout.from_position", q) + linear(w, "readout.from_state", one))
        gates = [linear(w, "readout.place", n), linear(w, "readout.session", d)]
        gates = sigmoid(np.concatenate([*gates, linear(w, "readout.match", d * one)]))
        long = long + (w["readout.attention.weight"] @ gates) * one
    given = found(model)
    np.testing.assert_allclose(given[0], long, atol=1e-5)
    np.testing.assert_allclose(given[1], h[-1], atol=1e-5)
    np.testing.assert_allclose(given[2], w["items"])
    torch.testing.assert_close(model.query(torch.ones(1, 8)), torch.full((1, 8), 3.0))


def test_hide_learns_to_tell_intents_apart():
    torch.manual_seed(0)
    model = HIDE(6, 8, intents=2, weight=0.5).train()
    w = weights_of(model)
    sessions = [SESSION, [1, 3]]
    losses = []
    for session in sessions:
        states = states_of(w, session, intents=2, window=6, share=0.4, layers=1)
        for k, mean in enumerate(np.mean(list(states.values()), 0)):
            losses.append(-np.log(softmax(linear(w, "classifier", mean))[k]))
    loss = model(*pad(sessions)).auxiliary.item()
    np.testing.assert_allclose(loss, 0.5 * np.mean(losses), rtol=1e-5)
    assert model.eval()(*pad(sessions)).auxiliary is None


def test_hide_has_these_edges():
    # By hand, for the clicks a b a c, W = 3: items held, by click; the third click is the second on a.
    c = [0, 0, 0, 1]
    ab, ac, none, every = [1, 1, 1, 0], [1, 0, 1, 1], [0] * 4, [1] * 4
    pairs, triples = [ab, ab, ac, none], [ab, every, none, none]
    items = [every, ab, none, c]  # after a come b and c, after b comes a, after c nothing
    batch = pad([[5, 2, 5, 9], [3]])
    edges = shared_edges(same_item(*batch), batch[1], 3)
    assert edges[0].int().tolist() == [*pairs, *triples, *items]
    assert edges[1].int().tolist() == [none] * 8 + [[1, 0, 0, 0]] + [none] * 3


def test_hide_scores_many_sessions_a_few_at_a_time(monkeypatch):
    torch.manual_seed(0)
    model = HIDE(6, 8).eval()
    batch = pad([SESSION, [3], [5, 5]])
    at_once = model(*batch).long
    monkeypatch.setattr("llm4sbr_sequential.hide.INCIDENCES", 1)
    torch.testing.assert_close(model(*batch).long, at_once)


def test_hide_takes_its_intents_from_the_weights_it_loads():
    torch.manual_seed(0)
    one, other = HIDE(6, 8).eval(), HIDE(6, 8).eval()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(*pad([SESSION])).long, other(*pad([SESSION])).long)
    torch.testing.assert_close(one.train()(*pad([SESSION])).long, other(*pad([SESSION])).long)
