"""SASRec against its equations in NumPy: every position of every block, one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.backbones.sasrec import SASRec
from llm4sbr.errors import ConfigError
from llm4sbr.testing.backbones import pad

DIM = 6
sessions = st.lists(st.integers(1, 6), min_size=1, max_size=9)


def layer_norm(x, weight, bias):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def block_by_hand(w, name, states, heads):
    """One block over all positions; position t sees 0..t."""

    def norm(which, x):
        return layer_norm(x, w[f"{name}.{which}.weight"], w[f"{name}.{which}.bias"])

    width = DIM // heads
    after = []
    for t, state in enumerate(states):
        found = np.zeros(DIM)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            query = (w[f"{name}.query.weight"] @ norm("norm_attention", state))[part]
            seen = [norm("norm_attention", past) for past in states[: t + 1]]
            logits = [query @ (w[f"{name}.key.weight"] @ past)[part] / np.sqrt(width) for past in seen]
            weights = np.exp(logits) / np.exp(logits).sum()
            for weight, past in zip(weights, seen, strict=True):
                found[part] += weight * (w[f"{name}.value.weight"] @ past)[part]
        s = state + found
        inner = w[f"{name}.network.0.weight"] @ norm("norm_network", s) + w[f"{name}.network.0.bias"]
        after.append(s + w[f"{name}.network.3.weight"] @ np.maximum(inner, 0) + w[f"{name}.network.3.bias"])
    return after


def sasrec_by_hand(w, session, *, blocks, heads, max_length):
    session = session[-max_length:]
    states = [w["items"][item - 1] + w["positions"][len(session) - 1 - t] for t, item in enumerate(session)]
    for block in range(blocks):
        states = block_by_hand(w, f"blocks.{block}", states, heads)
    return layer_norm(states[-1], w["norm.weight"], w["norm.bias"])


def randomised(**options):
    """A model whose LayerNorms and biases are not at their neutral start."""
    torch.manual_seed(0)
    model = SASRec(6, DIM, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@settings(max_examples=20, deadline=None)
@given(sessions, st.integers(1, 3), st.sampled_from([1, 2]), st.sampled_from([4, 50]))
def test_equals_its_paper(session, blocks, heads, max_length):
    options = {"blocks": blocks, "heads": heads, "max_length": max_length}
    model = randomised(**options)
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    encoded = model(*pad([session, [1, 2, 3, 4, 5, 6] * 2]))
    expected = sasrec_by_hand(w, session, **options)
    np.testing.assert_allclose(encoded.long[0].detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(encoded.short[0].detach().numpy(), w["items"][session[-1] - 1], atol=1e-6)


def test_clicks_too_far_back_are_left_out():
    model = randomised(max_length=3)
    long = model(*pad([[1, 2, 3, 4, 5], [6, 6, 3, 4, 5], [3, 4, 5], [2, 4, 5]])).long
    torch.testing.assert_close(long[0], long[1])
    torch.testing.assert_close(long[0], long[2])
    assert (long[0] - long[3]).abs().max() > 1e-3


def test_dropout_is_for_training_only():
    model = randomised()
    batch = pad([[1, 2, 3]])
    assert not torch.equal(model.train()(*batch).long, model(*batch).long)
    assert torch.equal(model.eval()(*batch).long, model(*batch).long)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 4}, "train.dim"), ({"blocks": 0}, "blocks = 0"), ({"max_length": 0}, "max_length = 0")],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        SASRec(6, DIM, **options)
