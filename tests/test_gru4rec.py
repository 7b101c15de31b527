"""GRU4Rec against the recurrence written out in NumPy, click by click."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.backbones.gru4rec import GRU4Rec
from llm4sbr.testing.backbones import pad

sessions = st.lists(st.integers(1, 6), min_size=1, max_size=9)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_by_hand(w, clicks):
    """All states; gates in torch's order reset, update, candidate."""
    state = np.zeros(clicks.shape[1])
    states = []
    for click in clicks:
        from_click = np.split(w["gru.unit.weight_ih_l0"] @ click + w["gru.unit.bias_ih_l0"], 3)
        from_state = np.split(w["gru.unit.weight_hh_l0"] @ state + w["gru.unit.bias_hh_l0"], 3)
        r = sigmoid(from_click[0] + from_state[0])
        z = sigmoid(from_click[1] + from_state[1])
        c = np.tanh(from_click[2] + r * from_state[2])
        state = (1 - z) * c + z * state
        states.append(state)
    return np.array(states)


@settings(max_examples=25, deadline=None)
@given(sessions)
def test_equals_its_paper(session):
    torch.manual_seed(0)
    model = GRU4Rec(6, 5).eval()
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    clicks = w["items"][[item - 1 for item in session]]
    encoded = model(*pad([session, [1, 2, 3, 4, 5, 6] * 2]))
    np.testing.assert_allclose(encoded.long[0].detach().numpy(), gru_by_hand(w, clicks)[-1], atol=1e-5)
    np.testing.assert_allclose(encoded.short[0].detach().numpy(), clicks[-1], atol=1e-6)


def test_one_click_by_hand():
    # D = 1, all weights 1, all biases 0, h_0 = 0, x = 0.5:
    # r = z = sigmoid(0.5) = 0.622459, c = tanh(0.5) = 0.462117, h = (1 - z) c = 0.174468.
    # Again with h_0 = 0.174468: r = z = sigmoid(0.674468) = 0.662481,
    # c = tanh(0.5 + r * 0.174468) = tanh(0.615582) = 0.548022, h = 0.337519 * c + z * 0.174468 = 0.300550.
    model = GRU4Rec(2, 1).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.constant_(parameter, 0.0 if "bias" in name else 1.0)
    torch.nn.init.constant_(model.items, 0.5)
    long = model(*pad([[1], [2, 1]])).long
    torch.testing.assert_close(long.flatten(), torch.tensor([0.174468, 0.300550]), atol=1e-5, rtol=0)


def test_order_matters():
    torch.manual_seed(0)
    long = GRU4Rec(6, 8).eval()(*pad([[1, 2, 3], [2, 1, 3]])).long
    assert (long[0] - long[1]).abs().max() > 1e-3


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    model = GRU4Rec(6, 8, embedding_dropout=0.5, state_dropout=0.5)
    batch = pad([[1, 2, 3]])
    assert not torch.equal(model.train()(*batch).long, model(*batch).long)
    assert torch.equal(model.eval()(*batch).long, model(*batch).long)
