"""Pieces of backbones whose gradients are written out, for training on a CPU.

Each is a formula that stands in a backbone in plain PyTorch too, which is what runs in evaluation, on a GPU,
in bfloat16, and wherever a compiler or an exporter looks on. What is gained: what belongs together is one
matrix product, sums and copies that autograd would make are left out, and products go to oneDNN without the
detour of `onednn.OneDNN`. Tests compare both ways, values and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llm4sbr.onednn import product, weight_gradient

aten = torch.ops.aten


def applies(module: nn.Module, states: Tensor) -> bool:
    """Whether a module in this state takes the way of this file for this input."""
    return (
        module.training
        and states.requires_grad
        and states.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def tanh(given: Tensor) -> Tensor:
    """`torch.tanh` as 2 sigmoid(2 x) - 1, which takes a sixth of the time on AVX-512; within 1e-7 of it."""
    return cast(Tensor, _Tanh.apply(given))  # type: ignore[no-untyped-call]


def soft_attention(
    keys: Tensor, values: Tensor, query: Tensor, mask: Tensor, to_key: nn.Linear, attention: nn.Linear
) -> Tensor:
    """sum_t a_t values_t with a_t = attention . sigmoid(to_key(keys_t) + query), float (B, D).

    Args:
        keys: float (B, T, D).
        values: float (B, T, D).
        query: float (B, D).
        mask: bool (B, T); a_t is 0 where it is false.
        to_key: D -> D, with or without a bias.
        attention: D -> 1, without one.
    """
    shift = query if to_key.bias is None else query + to_key.bias
    found = _SoftAttention.apply(keys, values, shift, mask, to_key.weight, attention.weight)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


class Gates(NamedTuple):
    """Weights of one step of the gated graph network, as `sr_gnn.GatedGraph` has them."""

    before: Tensor
    """(D, D + 1), of the edges that arrive, their bias the last column."""
    after: Tensor
    """(D, D + 1), of the edges that leave."""
    shift: Tensor
    """(2 D,), added to both averages."""
    message: Tensor
    """(3 D, 2 D), from both averages to the gates."""
    message_bias: Tensor
    """(3 D,)."""
    state: Tensor
    """(3 D, D), from the state itself to the gates."""
    state_bias: Tensor
    """(3 D,)."""


def gated_step(states: Tensor, edges: Tensor, gates: Gates) -> Tensor:
    """Eqs. 1 to 5 of Wu et al. 2019, float (B, T, D).

    Averages commute with linear maps, so those of the edges and that of the gates become one.

    Args:
        states: float (B, T, D).
        edges: float (B, 2 T, T), rows 2 t and 2 t + 1 average over the clicks before and after click t.
        gates: the weights.
    """
    return cast(Tensor, _GatedStep.apply(states, edges, *gates))  # type: ignore[no-untyped-call]


def _tanh_(given: Tensor) -> Tensor:
    return given.mul_(2).sigmoid_().mul_(2).sub_(1)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        result = _tanh_(given.clone())
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return cast(Tensor, aten.tanh_backward(gradient, *ctx.saved_tensors))


class _SoftAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, values: Tensor, query: Tensor, mask: Tensor, weight: Tensor, vector: Tensor
    ) -> Tensor:
        size, keys = keys.shape, keys.flatten(0, 1)
        hidden = product(keys, weight).view(size).add_(query.unsqueeze(1)).sigmoid_()
        weights = (hidden.view(-1, size[2]) @ vector[0]).view(size[:2]) * mask
        ctx.save_for_backward(keys, values, mask, weight, vector, hidden, weights)
        return (weights.unsqueeze(1) @ values).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        keys, values, mask, weight, vector, hidden, weights = ctx.saved_tensors
        size = hidden.shape
        gradient = gradient.unsqueeze(1)  # (B, 1, D)
        to_values = weights.unsqueeze(2) * gradient
        to_weights = ((values @ gradient.transpose(1, 2)).squeeze(2) * mask).view(1, -1)  # (1, B T)
        to_vector = to_weights @ hidden.view(-1, size[2])
        inner = torch.addcmul(hidden, hidden, hidden, value=-1)  # sigmoid's derivative
        inner = inner.mul_(vector).mul_(to_weights.view(*size[:2], 1))
        rows = inner.view(-1, size[2])
        to_weight = weight_gradient(keys, rows)
        to_keys = product(rows, weight.t()).view(size)
        return to_keys, to_values, inner.sum(1), None, to_weight, to_vector


class _GatedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, edges: Tensor, *weights: Tensor) -> Tensor:
        batch, steps, dim = states.shape
        gates = Gates(*weights)
        rows = states.reshape(-1, dim)
        # The ones become "1 if any", with which the bias of an edge map counts only where there is an edge.
        padded = torch.cat([states, states.new_ones(batch, steps, 1)], 2)
        mean = (edges @ padded).view(len(rows), -1)  # (B T, 2 D + 2)
        fold = torch.cat([gates.message[:, :dim] @ gates.before, gates.message[:, dim:] @ gates.after], 1)
        bias = torch.addmv(gates.message_bias, gates.message, gates.shift)
        from_mean, from_state = product(mean, fold, bias), product(rows, gates.state, gates.state_bias)
        opened = (from_mean[:, : 2 * dim] + from_state[:, : 2 * dim]).sigmoid_()
        reset, keep = opened.chunk(2, 1)
        new = _tanh_(torch.addcmul(from_mean[:, 2 * dim :], reset, from_state[:, 2 * dim :]))
        ctx.save_for_backward(rows, edges, fold, mean, from_state[:, 2 * dim :], opened, new, *weights)
        return torch.lerp(new, rows, keep).view(states.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, edges, fold, mean, old, opened, new, *weights = ctx.saved_tensors
        gates, dim, size = Gates(*weights), rows.shape[1], gradient.shape
        gradient = gradient.reshape(-1, dim)
        reset, keep = opened.chunk(2, 1)
        to_rows = gradient * keep
        inner = aten.tanh_backward(gradient - to_rows, new)
        to_opened = torch.cat([inner * old, (rows - new).mul_(gradient)], 1)
        to_opened = aten.sigmoid_backward(to_opened, opened)
        from_mean = torch.cat([to_opened, inner], 1)  # to what the gates see, (B T, 3 D)
        from_state = torch.cat([to_opened, inner.mul_(reset)], 1)
        to_mean = product(from_mean, fold.t()).view(size[0], -1, dim + 1)
        to_rows = to_rows.add_(product(from_state, gates.state.t())).view(size)
        to_rows.add_((edges.transpose(1, 2) @ to_mean)[:, :, :dim])
        to_fold, to_bias = weight_gradient(mean, from_mean), from_mean.sum(0)
        to_weights = _through_fold(gates, to_fold.chunk(2, 1), to_bias)
        return to_rows, None, *to_weights, to_bias, weight_gradient(rows, from_state), from_state.sum(0)


def _through_fold(gates: Gates, parts: Sequence[Tensor], to_bias: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `before`, `after`, `shift` and `message`, of both parts of `fold` and its bias."""
    both, dim = (gates.before, gates.after), len(gates.before)
    to_message = torch.cat([part @ edge.t() for part, edge in zip(parts, both, strict=True)], 1)
    to_message.addr_(to_bias, gates.shift)
    to_edges = [map_.t() @ part for map_, part in zip(torch.split(gates.message, dim, 1), parts, strict=True)]
    return *to_edges, gates.message.t() @ to_bias, to_message
