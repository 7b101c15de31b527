"""NARM's attention and decoder against sums over clicks in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.backbones.narm import NARM
from llm4sbr.testing.backbones import pad

sessions = st.lists(st.integers(1, 6), min_size=1, max_size=9)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states_by_hand(w, clicks):
    state = np.zeros(clicks.shape[1])
    states = []
    for click in clicks:
        r, z, c = np.split(w["gru.unit.weight_ih_l0"] @ click + w["gru.unit.bias_ih_l0"], 3)
        r_h, z_h, c_h = np.split(w["gru.unit.weight_hh_l0"] @ state + w["gru.unit.bias_hh_l0"], 3)
        z = sigmoid(z + z_h)
        state = (1 - z) * np.tanh(c + sigmoid(r + r_h) * c_h) + z * state
        states.append(state)
    return states


@settings(max_examples=25, deadline=None)
@given(sessions)
def test_equals_its_paper(session):
    torch.manual_seed(0)
    model = NARM(6, 5).eval()
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    clicks = w["items"][[item - 1 for item in session]]
    states = states_by_hand(w, clicks)
    overall = states[-1]
    local = np.zeros(5)
    for state in states:
        hidden = sigmoid(w["attend_last.weight"] @ overall + w["attend_all.weight"] @ state)
        local += (w["attention.weight"][0] @ hidden) * state
    # The bilinear score of every item, e_i B c, as the paper has it: not through the folded vector.
    expected = [item @ w["decode.weight"] @ np.concatenate([overall, local]) for item in w["items"]]
    encoded = model(*pad([session, [1, 2, 3, 4, 5, 6] * 2]))
    scores = encoded.long[0] @ model.item_embeddings().T
    np.testing.assert_allclose(scores.detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(encoded.short[0].detach().numpy(), clicks[-1], atol=1e-6)


def test_attention_by_hand():
    # D = 1 and a unit that copies nothing but the candidate: z = sigmoid(-40) = 0, c = tanh(x).
    # Items atanh(0.5) and atanh(0.2), session [1, 2]: h = 0.5, 0.2. A_1 = 1, A_2 = 2, v = 3:
    # a_1 = 3 sigmoid(0.2 + 1.0) = 2.305574, a_2 = 3 sigmoid(0.2 + 0.4) = 1.936969,
    # c_local = 0.5 a_1 + 0.2 a_2 = 1.540181; B = [10, 1]: long = 2 + 1.540181.
    model = NARM(2, 1).eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.items.copy_(torch.tensor([[0.5], [0.2]]).atanh())
        model.gru.unit.weight_ih_l0[2] = 1
        model.gru.unit.bias_ih_l0[1] = -40
        model.attend_last.weight.fill_(1)
        model.attend_all.weight.fill_(2)
        model.attention.weight.fill_(3)
        model.decode.weight.copy_(torch.tensor([[10.0, 1.0]]))
    long = model(*pad([[1, 2]])).long
    torch.testing.assert_close(long, torch.tensor([[3.540181]]), atol=1e-5, rtol=0)


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    model = NARM(6, 8)
    batch = pad([[1, 2, 3]])
    assert not torch.equal(model.train()(*batch).long, model(*batch).long)
    assert torch.equal(model.eval()(*batch).long, model(*batch).long)
