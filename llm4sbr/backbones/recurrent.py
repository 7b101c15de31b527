"""A gated recurrent unit that can be exported with dynamic batch size and length.

    z = sigmoid(W_z x + U_z h + b_z)            c = tanh(W x + b + r * (U h + b_u))
    r = sigmoid(W_r x + U_r h + b_r)            h' = (1 - z) * c + z * h

This is PyTorch's unit. Compared to the papers' (Cho et al. 2014) it has biases, applies r after U, and z
takes the role of 1 - z. It also runs over padding, which comes after the clicks and does not affect them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """States after every click, starting from zero.

    Args:
        dim: D, of clicks and states.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.unit = nn.GRU(dim, dim, batch_first=True)

    def forward(self, clicks: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if torch.onnx.is_in_onnx_export():
            return self._as_operator(clicks)
        states: Tensor = self.unit(clicks)[0]
        return states

    def _as_operator(self, clicks: Tensor) -> Tensor:
        # Tracing would unroll PyTorch's unit to the length of the example input. ONNX has the same unit as
        # one operator. Needs torch >= 2.8, for export only.
        batch, length, dim = clicks.shape
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        inputs, recurrent, *biases = (_reorder(self.unit.get_parameter(name)) for name in names)
        states = torch.onnx.ops.symbolic(
            "GRU",
            (clicks.transpose(0, 1), inputs[None], recurrent[None], torch.cat(biases)[None]),
            {"hidden_size": dim, "linear_before_reset": 1},
            dtype=clicks.dtype,
            shape=(length, 1, batch, dim),
            version=20,
        )
        return states.squeeze(1).transpose(0, 1)


def _reorder(gates: Tensor) -> Tensor:
    """Gates stacked along the first axis: from PyTorch's order r, z, c to ONNX's order z, r, c."""
    size = gates.shape[0] // 3
    return torch.cat([gates[size : 2 * size], gates[:size], gates[2 * size :]])
