"""The session graph against a node-level construction, and SR-GNN against its paper's equations in NumPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.backbones.graph import session_graph
from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.testing.backbones import pad

sessions = st.lists(st.integers(1, 6), min_size=1, max_size=12)


def node_graph(session):
    """Distinct items in ascending order, and the normalised adjacency between them, step by step."""
    nodes = sorted(set(session))
    edges = set(pairwise(session))
    matrix = np.array([[float((a, b) in edges) for b in nodes] for a in nodes])
    outgoing = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    incoming = matrix.T / np.maximum(matrix.T.sum(1, keepdims=True), 1)
    return nodes, incoming, outgoing


@settings(max_examples=150, deadline=None)
@given(st.lists(sessions, min_size=1, max_size=4), st.integers(0, 5))
def test_graph_equals_the_node_level_one(batch, extra):
    items, mask = pad(batch, width=max(map(len, batch)) + extra)
    graph = session_graph(items, mask)
    for row, session in enumerate(batch):
        nodes, incoming, outgoing = node_graph(session)
        alias = [nodes.index(item) for item in session]
        vectors = np.random.default_rng(0).normal(size=(len(nodes), 3))
        clicks = np.zeros((items.shape[1], 3))
        clicks[: len(session)] = vectors[alias]
        clicks[len(session) :] = 1e6  # whatever padding holds must not arrive anywhere
        for ours, theirs in ((graph.incoming, incoming), (graph.outgoing, outgoing)):
            found = ours[row].double().numpy() @ clicks
            np.testing.assert_allclose(found[: len(session)], (theirs @ vectors)[alias], atol=1e-5)
            assert not found[len(session) :].any()


def test_graph_by_hand():
    # 1 2 3 2 4: 2 comes after 1 and 3, and is followed by 3 and 4.
    items, mask = pad([[1, 2, 3, 2, 4]])
    graph = session_graph(items, mask)
    expected_out = torch.zeros(5, 5)
    expected_out[0, 1] = expected_out[2, 3] = 1
    expected_out[1, [2, 4]] = expected_out[3, [2, 4]] = 0.5
    expected_in = torch.zeros(5, 5)
    expected_in[1, [0, 2]] = expected_in[3, [0, 2]] = 0.5
    expected_in[2, 1] = expected_in[4, 3] = 1
    torch.testing.assert_close(graph.outgoing[0], expected_out)
    torch.testing.assert_close(graph.incoming[0], expected_in)


def test_repeated_transition_counts_once():
    items, mask = pad([[1, 2, 1, 2, 1, 3]])
    outgoing = session_graph(items, mask).outgoing[0]
    torch.testing.assert_close(outgoing[0], torch.tensor([0, 0.5, 0, 0, 0, 0.5]))
    torch.testing.assert_close(outgoing[4], outgoing[0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sr_gnn_by_the_paper(weights, session, steps):
    """Wu et al. 2019, Eqs. 1-6, for one session, node by node."""
    w = {name: value.double().numpy() for name, value in weights.items()}
    nodes, incoming, outgoing = node_graph(session)
    v = w["items"][[node - 1 for node in nodes]]
    for _ in range(steps):
        after = np.empty_like(v)
        for i in range(len(nodes)):
            from_in = sum(
                incoming[i, j] * (w["gnn.edge_in.weight"] @ v[j] + w["gnn.edge_in.bias"])
                for j in range(len(v))
            )
            from_out = sum(
                outgoing[i, j] * (w["gnn.edge_out.weight"] @ v[j] + w["gnn.edge_out.bias"])
                for j in range(len(v))
            )
            a = np.concatenate([from_in + w["gnn.bias_in"], from_out + w["gnn.bias_out"]])  # Eq. 1
            message = w["gnn.from_message.weight"] @ a + w["gnn.from_message.bias"]
            state = w["gnn.from_state.weight"] @ v[i] + w["gnn.from_state.bias"]
            d = len(v[i])
            r = sigmoid(message[:d] + state[:d])  # Eq. 3
            z = 1 - sigmoid(message[d : 2 * d] + state[d : 2 * d])  # Eq. 2
            candidate = np.tanh(message[2 * d :] + r * state[2 * d :])  # Eq. 4
            after[i] = (1 - z) * v[i] + z * candidate  # Eq. 5
        v = after
    clicks = [v[nodes.index(item)] for item in session]
    last = clicks[-1]
    long = np.zeros_like(last)
    for click in clicks:  # Eq. 6
        inner = (
            w["attend_last.weight"] @ last
            + w["attend_last.bias"]
            + w["attend_all.weight"] @ click
            + w["attend_all.bias"]
        )
        long += (w["attention.weight"][0] @ sigmoid(inner)) * click
    return long, last


@settings(max_examples=40, deadline=None)
@given(sessions, st.integers(1, 3))
def test_sr_gnn_equals_its_paper(session, steps):
    torch.manual_seed(0)
    model = SRGNN(6, 5, steps=steps)
    encoded = model(*pad([session, [1, 2, 3, 4, 5, 6] * 2]))
    long, short = sr_gnn_by_the_paper(model.state_dict(), session, steps)
    np.testing.assert_allclose(encoded.long[0].detach().numpy(), long, atol=1e-5)
    np.testing.assert_allclose(encoded.short[0].detach().numpy(), short, atol=1e-5)


def test_sr_gnn_starts_within_the_authors_bounds():
    model = SRGNN(50, 16)
    assert all(p.abs().max() <= 0.25 for p in model.parameters())
    assert all(p.abs().max() > 0.05 for p in model.parameters())
