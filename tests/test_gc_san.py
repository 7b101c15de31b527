"""GC-SAN against its paper's equations in NumPy, one session, click by click."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from llm4sbr.backbones.gc_san import GCSAN
from llm4sbr.testing.backbones import pad

SESSION = [2, 5, 2, 5, 4, 2]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(weights, name, x):
    """A layer with or without a bias."""
    return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0)


def graph_states(w, session):
    """One round of the gated graph network (SR-GNN, Eqs. 1-5), node by node; one state per click."""
    edges = set(pairwise(session))
    dim = w["items"].shape[1]
    v = {item: w["items"][item - 1] for item in session}
    after = {}
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
    return [after[item] for item in session]


def block(w, number, clicks):
    """Self-attention of every click over all clicks, and the two layers behind it."""
    query, key, value = (
        [linear(w, f"blocks.{number}.{name}", h) for h in clicks] for name in ("query", "key", "value")
    )
    result = []
    for q in query:
        weights = np.exp([q @ k / np.sqrt(len(q)) for k in key])
        found = sum(weight * v for weight, v in zip(weights / weights.sum(), value, strict=True))
        hidden = np.maximum(linear(w, f"blocks.{number}.inner", found), 0)
        result.append(linear(w, f"blocks.{number}.outer", hidden) + found)
    return result


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_equals_its_paper(blocks):
    torch.manual_seed(0)
    model = GCSAN(6, 8, blocks=blocks, omega=0.7).eval()
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    clicks = graph_states(w, SESSION)
    attended = clicks
    for number in range(blocks):
        attended = block(w, number, attended)
    encoded = model(*pad([SESSION, [1, 2, 3, 4, 5, 6, 1, 3]]))
    expected = 0.7 * attended[-1] + 0.3 * clicks[-1]
    np.testing.assert_allclose(encoded.long[0].detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(encoded.short[0].detach().numpy(), clicks[-1], atol=1e-5)


def test_omega_decides_between_attention_and_the_last_click():
    torch.manual_seed(0)
    model = GCSAN(6, 8, omega=0.0).eval()
    encoded = model(*pad([SESSION]))
    assert torch.equal(encoded.long, encoded.short)


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    model = GCSAN(6, 8, dropout=0.5)
    batch = pad([SESSION])
    assert not torch.equal(model(*batch).long, model(*batch).long)
    model.eval()
    assert torch.equal(model(*batch).long, model(*batch).long)
