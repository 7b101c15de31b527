"""Each backbone against its paper's equations, written out in NumPy click by click and node by node."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from formulas import COMPANY, SESSION, found, layer_norm, linear, sigmoid, softmax, unit, weights_of
from llm4sbr_sequential.atten_mixer import AttenMixer
from llm4sbr_sequential.core import CORE
from llm4sbr_sequential.lessr import LESSR
from llm4sbr_sequential.niser import NISER

from llm4sbr.testing.backbones import pad

# CORE


def core_weights(w, clicks, heads):
    """alpha, by a causal transformer whose positions count from the end."""
    states = [
        layer_norm(w, "weights.norm", x + w["weights.positions"][len(clicks) - 1 - t])
        for t, x in enumerate(clicks)
    ]
    for number in range(2):
        name, after = f"weights.blocks.{number}", []
        keys = [layer_norm(w, f"{name}.norm_attention", h) for h in states]
        q, k, v = ([linear(w, f"{name}.{one}", h) for h in keys] for one in ("query", "key", "value"))
        for t, state in enumerate(states):
            parts = []
            for head in np.split(np.arange(len(state)), heads):
                a = softmax([q[t][head] @ k[s][head] / np.sqrt(len(head)) for s in range(t + 1)])
                parts.append(sum(a[s] * v[s][head] for s in range(t + 1)))
            state = state + np.concatenate(parts)
            inner = linear(w, f"{name}.network.0", layer_norm(w, f"{name}.norm_network", state))
            after.append(state + linear(w, f"{name}.network.3", np.maximum(inner, 0)))
        states = after
    return softmax([linear(w, "weights.weight", layer_norm(w, "weights.last_norm", h))[0] for h in states])


@pytest.mark.parametrize("blocks", [0, 2])
def test_core(blocks):
    torch.manual_seed(0)
    model = CORE(6, 8, blocks=blocks, temperature=0.2).eval()
    w = weights_of(model)
    clicks = [w["items"][item - 1] for item in SESSION]
    alpha = core_weights(w, clicks, 2) if blocks else np.full(len(clicks), 1 / len(clicks))
    h = sum(a * x for a, x in zip(alpha, clicks, strict=True))
    long, short, _ = found(model)
    np.testing.assert_allclose(long, h, atol=1e-5)
    np.testing.assert_allclose(short, clicks[-1], atol=1e-6)
    scores = model.query(torch.tensor(long)[None]) @ model.item_embeddings().T
    expected = [unit(h) @ unit(item) / 0.2 for item in w["items"]]
    np.testing.assert_allclose(scores[0].detach().numpy(), expected, atol=1e-5)


# NISER+


def graph_states(w, v):
    """One round of the gated graph network (SR-GNN, Eqs. 1-5), node by node: item -> state."""
    edges, dim, after = set(pairwise(SESSION)), len(next(iter(v.values()))), {}
    for item in v:
        before = [a for a, b in edges if b == item]
        behind = [b for a, b in edges if a == item]
        into = sum((linear(w, "gnn.edge_in", v[one]) / len(before) for one in before), np.zeros(dim))
        out = sum((linear(w, "gnn.edge_out", v[one]) / len(behind) for one in behind), np.zeros(dim))
        message = np.concatenate([into + w["gnn.bias_in"], out + w["gnn.bias_out"]])
        m = linear(w, "gnn.from_message", message).reshape(3, dim)
        s = linear(w, "gnn.from_state", v[item]).reshape(3, dim)
        reset, keep = sigmoid(m[0] + s[0]), sigmoid(m[1] + s[1])
        after[item] = keep * v[item] + (1 - keep) * np.tanh(m[2] + reset * s[2])
    return after


def test_niser():
    torch.manual_seed(0)
    model = NISER(6, 8, positions=5, scale=3.0).eval()
    w = weights_of(model)
    nodes = graph_states(w, {item: unit(w["items"][item - 1]) for item in SESSION})
    tau = [nodes[item] + w["positions"][min(t, 4)] for t, item in enumerate(SESSION)]
    drive = linear(w, "attend_last", tau[-1])
    long = sum((w["attention.weight"] @ sigmoid(drive + linear(w, "attend_all", x))) * x for x in tau)
    given = found(model)
    np.testing.assert_allclose(given[0], long, atol=1e-5)
    np.testing.assert_allclose(given[1], tau[-1], atol=1e-5)
    np.testing.assert_allclose(given[2], [3.0 * unit(item) for item in w["items"]], atol=1e-5)
    query = model.query(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(query, torch.tensor([[0.6, 0.8]]))


# LESSR


def gru(w, name, messages, dim):
    """The state after all messages, gates in the order reset, update, candidate."""
    state = np.zeros(dim)
    for message in messages:
        m = linear(w, f"{name}.from_message", message).reshape(3, dim)
        s = linear(w, f"{name}.from_state", state).reshape(3, dim)
        update = sigmoid(m[1] + s[1])
        new = np.tanh(m[2] + sigmoid(m[0] + s[0]) * s[2])
        state = (1 - update) * new + update * state
    return state


def prelu(w, name, x):
    return np.where(x >= 0, x, w[f"{name}.active.slope"] * x)


def eopa(w, name, x, arrivals):
    """Nodes item -> state, by the transitions that arrive at each, in order; repeated ones count again."""
    x = {item: layer_norm(w, f"{name}.norm", state) for item, state in x.items()}
    after = {}
    for item, state in x.items():
        messages = [x[a] for a, b in pairwise(SESSION) if b == item][-arrivals:]
        read = gru(w, name, messages, len(state))
        after[item] = prelu(
            w, name, w[f"{name}.itself.weight"] @ state + w[f"{name}.neighbours.weight"] @ read
        )
    return after


def sgat(w, name, x):
    """Nodes item -> state, by attention over every item that some click on the node is not before."""
    x = {item: layer_norm(w, f"{name}.norm", state) for item, state in x.items()}
    pairs = {(SESSION[i], SESSION[j]) for i in range(len(SESSION)) for j in range(i, len(SESSION))}
    after = {}
    for item in x:
        sources = [a for a, b in pairs if b == item]
        key = linear(w, f"{name}.target", x[item])
        logits = [
            (w[f"{name}.attention.weight"] @ sigmoid(linear(w, f"{name}.source", x[a]) + key))[0]
            for a in sources
        ]
        weights = softmax(np.array(logits))
        seen = sum(a * linear(w, f"{name}.value", x[one]) for a, one in zip(weights, sources, strict=True))
        after[item] = prelu(w, name, seen)
    return after


@pytest.mark.parametrize("arrivals", [8, 2])
def test_lessr(arrivals):
    torch.manual_seed(0)
    model = LESSR(6, 4, layers=3, arrivals=arrivals).eval()
    w = weights_of(model)
    x = {item: w["items"][item - 1] for item in SESSION}
    for number, layer in enumerate(("eopa", "sgat", "eopa")):
        name = f"layers.{number}"
        new = sgat(w, name, x) if layer == "sgat" else eopa(w, name, x, arrivals)
        x = {item: np.concatenate([new[item], x[item]]) for item in x}
    last = x[SESSION[-1]]
    normed = {item: layer_norm(w, "readout.norm", state) for item, state in x.items()}
    drive = linear(w, "readout.attend_last", normed[SESSION[-1]])
    logits = {
        item: (w["readout.attention.weight"] @ sigmoid(linear(w, "readout.attend_all", state) + drive))[0]
        for item, state in normed.items()
    }
    weights = softmax(np.array(list(logits.values())))
    overall = w["readout.out.weight"] @ sum(a * normed[one] for a, one in zip(weights, logits, strict=True))
    overall = prelu(w, "readout", overall)
    short = w["from_last.weight"] @ layer_norm(w, "norm_last", last)
    long = short + w["from_all.weight"] @ layer_norm(w, "norm_all", overall)
    given = found(model)
    np.testing.assert_allclose(given[0], long, atol=1e-5)
    np.testing.assert_allclose(given[1], short, atol=1e-5)
    np.testing.assert_allclose(given[2], w["items"])


@pytest.mark.parametrize("arrivals", [1, 2, 5])
def test_lessr_computes_where_something_arrives_what_a_traced_graph_computes_everywhere(
    arrivals, monkeypatch
):
    torch.manual_seed(0)
    model = LESSR(6, 4, arrivals=arrivals).eval()
    batch = pad([SESSION, [3], COMPANY, [5, 5, 5, 5]])

    def found():
        long = model(*batch).long
        return long, *torch.autograd.grad(long.square().sum(), list(model.parameters()))

    here = found()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for one, two in zip(here, found(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_lessr_scores_many_sessions_a_few_at_a_time(monkeypatch):
    torch.manual_seed(0)
    model = LESSR(6, 4).eval()
    batch = pad([SESSION, COMPANY, [3], [5, 5]])
    at_once = model(*batch).long
    monkeypatch.setattr("llm4sbr_sequential.lessr.PAIRS", 1)
    torch.testing.assert_close(model(*batch).long, at_once)


def test_lessr_has_every_gradient_without_an_edge():
    # Processes that train together sum their gradients in order: none may be missing in one of them.
    model = LESSR(6, 4)
    model(*pad([[1], [2]])).long.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_lessr_knows_the_order_of_edges():
    # The paper's point: both sessions have one and the same set of transitions, and end alike.
    one, other = [1, 2, 1, 3, 1], [1, 3, 1, 2, 1]
    assert set(pairwise(one)) == set(pairwise(other))
    torch.manual_seed(0)
    long = LESSR(6, 8, layers=1).eval()(*pad([one, other])).long
    assert (long[0] - long[1]).abs().max() > 1e-4


# Atten-Mixer


@pytest.mark.parametrize(("levels", "heads"), [(3, 2), (9, 3)])
def test_atten_mixer(levels, heads):
    torch.manual_seed(0)
    model = AttenMixer(6, 8, levels=levels, heads=heads, power=3.0, scale=5.0).eval()
    w = weights_of(model)
    power = float(w["attention.power"])
    x = [unit(w["items"][item - 1]) for item in SESSION]
    split = [linear(w, "attention.to_key", one).reshape(heads, -1) for one in x]
    values = [linear(w, "attention.to_value", one).reshape(heads, -1) for one in x]
    maps = []
    for level in range(levels):
        known = sum(x[-level - 1 :])  # the last `level + 1` clicks, or all there are
        q = unit(known @ w["attention.level_weight"][level] + w["attention.level_bias"][level, 0])
        q = linear(w, "attention.to_query", q).reshape(heads, -1)
        maps.append([softmax(np.array([2 * sigmoid(q[h] @ key[h]) for key in split])) for h in range(heads)])
    mixture = (np.array(maps) ** power).sum(0) ** (1 / power)  # heads, clicks
    parts = [
        sum(a * value[h] for a, value in zip(softmax(2 * mixture[h]), values, strict=True))
        for h in range(heads)
    ]
    m = layer_norm(w, "attention.norm", np.concatenate(parts))
    s = linear(w, "out", np.concatenate([m, x[-1]]))
    given = found(model)
    np.testing.assert_allclose(given[0], s, atol=1e-5)
    np.testing.assert_allclose(given[1], x[-1], atol=1e-6)
    np.testing.assert_allclose(given[2], [5.0 * unit(item) for item in w["items"]], atol=1e-5)


def test_atten_mixer_takes_the_clicks_of_a_level_as_a_set():
    torch.manual_seed(0)
    model = AttenMixer(6, 8, levels=2).eval()
    clicks, mask = torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    one, other = (model.attention._queries(clicks[:, order], mask) for order in ([0, 1, 2], [0, 2, 1]))
    torch.testing.assert_close(one[:, 1], other[:, 1])
    assert not torch.allclose(one[:, 0], other[:, 0])


def test_atten_mixer_pools_without_an_overflow():
    attention = AttenMixer(6, 8, power=200.0).attention
    pooled = attention._pool(torch.full((1, 1, 2, 1), 1e-3))
    torch.testing.assert_close(pooled, torch.full((1, 1, 1), 1e-3 * 2 ** (1 / 200)))
