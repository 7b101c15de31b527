"""The unit as an ONNX operator: the operator's specification, in loops, gives what torch's unit gives."""

from __future__ import annotations

import numpy as np
import torch

from llm4sbr.backbones.recurrent import GRU


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def onnx_gru(domain_op, inputs, attributes, *, dtype, shape, version):
    """ONNX operator GRU, opset 14 and later: gates in the order z, r, h, all of one direction."""
    assert domain_op == "GRU"
    assert attributes == {"hidden_size": shape[3], "linear_before_reset": 1}
    x, w, r, b = (value.detach().double().numpy() for value in inputs)
    size = attributes["hidden_size"]
    wz, wr, wh = w[0].reshape(3, size, -1)
    rz, rr, rh = r[0].reshape(3, size, size)
    wbz, wbr, wbh, rbz, rbr, rbh = b[0].reshape(6, size)
    state, states = np.zeros((x.shape[1], size)), []
    for step in x:
        z = sigmoid(step @ wz.T + state @ rz.T + wbz + rbz)
        reset = sigmoid(step @ wr.T + state @ rr.T + wbr + rbr)
        h = np.tanh(step @ wh.T + reset * (state @ rh.T + rbh) + wbh)
        state = (1 - z) * h + z * state
        states.append(state[None])
    found = torch.from_numpy(np.array(states)).to(dtype)
    assert found.shape == shape
    return found


def test_the_operator_equals_the_unit(monkeypatch):
    torch.manual_seed(0)
    unit = GRU(5)
    clicks = torch.randn(3, 7, 5)
    expected = unit(clicks)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    monkeypatch.setattr(torch.onnx.ops, "symbolic", onnx_gru)
    torch.testing.assert_close(unit(clicks), expected, atol=1e-6, rtol=1e-5)


def test_clicks_never_see_padding():
    torch.manual_seed(0)
    unit = GRU(5)
    clicks = torch.randn(2, 7, 5)
    other = torch.cat([clicks[:, :4], torch.randn(2, 3, 5)], 1)
    assert torch.equal(unit(clicks)[:, :4], unit(other)[:, :4])
