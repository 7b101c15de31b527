"""STAMP against its equations, click by click in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.backbones.stamp import STAMP
from llm4sbr.testing.backbones import pad

sessions = st.lists(st.integers(1, 6), min_size=1, max_size=9)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@settings(max_examples=25, deadline=None)
@given(sessions)
def test_equals_its_paper(session):
    torch.manual_seed(0)
    model = STAMP(6, 5).eval()
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    clicks = w["items"][[item - 1 for item in session]]
    mean, last = sum(clicks) / len(clicks), clicks[-1]
    attended = np.zeros(5)
    for click in clicks:
        inner = w["attend_all.weight"] @ click + w["attend_last.weight"] @ last
        inner = inner + w["attend_mean.weight"] @ mean + w["attend_mean.bias"]
        attended += (w["attention.weight"][0] @ sigmoid(inner)) * click
    general = np.tanh(w["general.weight"] @ attended + w["general.bias"])
    current = np.tanh(w["current.weight"] @ last + w["current.bias"])
    # The trilinear product of every item, entry by entry.
    expected = [sum(general[d] * current[d] * item[d] for d in range(5)) for item in w["items"]]
    encoded = model(*pad([session, [1, 2, 3, 4, 5, 6] * 2]))
    scores = encoded.long[0] @ model.item_embeddings().T
    np.testing.assert_allclose(scores.detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(encoded.short[0].detach().numpy(), current, atol=1e-5)


def test_by_hand():
    # D = 1, items 1 and 3, session [1, 2]: m_s = 2, m_t = 3. W_1 = 1, W_2 = -1, W_3 = 1, b_a = 0, w_0 = 2:
    # a_1 = 2 sigmoid(1 - 3 + 2) = 1, a_2 = 2 sigmoid(3 - 3 + 2) = 1.761594, m_a = 1 + 3 a_2 = 6.284782.
    # W_s = 0.1, W_t = 0.5: h_s = tanh(0.6284782) = 0.557004, h_t = tanh(1.5) = 0.905148.
    model = STAMP(2, 1).eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.items.copy_(torch.tensor([[1.0], [3.0]]))
        model.attend_all.weight.fill_(1)
        model.attend_last.weight.fill_(-1)
        model.attend_mean.weight.fill_(1)
        model.attention.weight.fill_(2)
        model.general.weight.fill_(0.1)
        model.current.weight.fill_(0.5)
    encoded = model(*pad([[1, 2]]))
    torch.testing.assert_close(encoded.short, torch.tensor([[0.905148]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.long, torch.tensor([[0.504170]]), atol=1e-5, rtol=0)


def test_only_the_last_place_counts():
    # No order but who is last: the paper's point.
    torch.manual_seed(0)
    model = STAMP(6, 8).eval()
    long = model(*pad([[1, 2, 3], [2, 1, 3], [3, 2, 1]])).long
    torch.testing.assert_close(long[0], long[1])
    assert (long[0] - long[2]).abs().max() > 1e-3
