"""Operations of backbones with hand-written gradients, for training on a CPU.

Each backbone also has the same formula in plain PyTorch, which is used in evaluation, on a GPU, in bfloat16,
and by compilers and exporters. The speed comes from joining matrix products, avoiding sums and copies that
autograd would make, and calling oneDNN directly. Tests compare both ways, values and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llm4sbr.fast.nodes import Bags, Links, Nodes
from llm4sbr.fast.onednn import applies, product, unwatched, weight_gradient

__all__ = ["Gates", "applies", "gated_nodes", "node_attention", "soft_attention", "tanh"]

aten = torch.ops.aten


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
    """Weights of one step of the gated graph network, named as in `sr_gnn.GatedGraph`."""

    before: Tensor
    """(D, D), for incoming edges."""
    before_bias: Tensor
    """(D,)."""
    after: Tensor
    """(D, D), for outgoing edges."""
    after_bias: Tensor
    """(D,)."""
    shift: Tensor
    """(2 D,), bias added to both averages."""
    message: Tensor
    """(3 D, 2 D), maps both averages to the gates."""
    message_bias: Tensor
    """(3 D,)."""
    state: Tensor
    """(3 D, D), maps the state itself to the gates."""
    state_bias: Tensor
    """(3 D,)."""


def gated_nodes(states: Tensor, links: Links, gates: Gates) -> Tensor:
    """Eqs. 1 to 5 of Wu et al. 2019 for all nodes of a batch, float (V, D).

    Averages commute with linear maps, so those of the edges and that of the gates become one, and it runs
    over the table, which holds an item of several sessions once.

    Args:
        states: float (U, D), the table that `links` refers to.
        links: the edges.
        gates: the weights.
    """
    return cast(Tensor, _GatedNodes.apply(states, links, *gates))  # type: ignore[no-untyped-call]


def node_attention(
    states: Tensor, query: Tensor, nodes: Nodes, to_key: nn.Linear, attention: nn.Linear
) -> Tensor:
    """`soft_attention` over the clicks of each session, float (B, D), computed once per node.

    Args:
        states: float (V, D), keys and values.
        query: float (B, D).
        nodes: whose states they are.
        to_key: D -> D.
        attention: D -> 1, without a bias.
    """
    shift = query if to_key.bias is None else query + to_key.bias
    found = _NodeAttention.apply(states, shift, nodes, to_key.weight, attention.weight)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


def _tanh_(given: Tensor) -> Tensor:
    return given.mul_(2).sigmoid_().mul_(2).sub_(1)


class _Tanh(torch.autograd.Function):
    @staticmethod
    @unwatched
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
    @unwatched
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


class _NodeAttention(torch.autograd.Function):
    @staticmethod
    @unwatched
    def forward(
        ctx: Any, states: Tensor, query: Tensor, nodes: Nodes, weight: Tensor, vector: Tensor
    ) -> Tensor:
        hidden = product(states, weight).add_(query.index_select(0, nodes.session)).sigmoid_()
        weights = (hidden @ vector[0]).mul_(nodes.clicked)  # (V,)
        ctx.save_for_backward(states, weight, vector, hidden, weights)
        ctx.nodes = nodes
        return Bags(torch.arange(len(states)), nodes.offsets, weights).times(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, vector, hidden, weights = ctx.saved_tensors
        nodes: Nodes = ctx.nodes
        to_nodes = gradient.index_select(0, nodes.session)  # (V, D)
        to_weights = torch.linalg.vecdot(states, to_nodes).mul_(nodes.clicked)
        to_vector = to_weights.unsqueeze(0) @ hidden
        inner = torch.addcmul(hidden, hidden, hidden, value=-1)  # sigmoid's derivative
        inner = inner.mul_(vector).mul_(to_weights.unsqueeze(1))
        to_query = Bags(torch.arange(len(states)), nodes.offsets).times(inner)
        to_states = product(inner, weight.t()).addcmul_(to_nodes, weights.unsqueeze(1))
        return to_states, to_query, None, weight_gradient(states, inner), to_vector


class _GatedNodes(torch.autograd.Function):
    @staticmethod
    @unwatched
    def forward(ctx: Any, states: Tensor, links: Links, *weights: Tensor) -> Tensor:
        dim, count = states.shape[1], len(links.own)
        gates = Gates(*weights)
        of_before, of_after = gates.message.split_with_sizes([dim, dim], 1)
        folded = product(of_before, gates.before.t()), product(of_after, gates.after.t())
        weight = torch.cat([*folded, gates.state])  # (9 D, D)
        # The first two biases belong to the edges and count only where there is an edge.
        shift = torch.cat([of_before @ gates.before_bias, of_after @ gates.after_bias, gates.state_bias])
        mapped = product(states, weight, shift).view(-1, 3 * dim)  # (3 U, 3 D)
        moved = links.there.times(mapped)  # (2 V, 3 D)
        from_mean, from_state = moved[:count], moved[count:]
        from_mean += torch.addmv(gates.message_bias, gates.message, gates.shift)
        opened = (from_mean[:, : 2 * dim] + from_state[:, : 2 * dim]).sigmoid_()
        reset, keep = opened.chunk(2, 1)
        new = _tanh_(torch.addcmul(from_mean[:, 2 * dim :], reset, from_state[:, 2 * dim :]))
        own = states.index_select(0, links.own)
        ctx.save_for_backward(states, weight, moved, opened, new, own, *weights)
        ctx.links = links
        return torch.lerp(new, own, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, moved, opened, new, own, *weights = ctx.saved_tensors
        links: Links = ctx.links
        gates, dim, count = Gates(*weights), states.shape[1], len(links.own)
        reset, keep = opened.chunk(2, 1)
        to_own = gradient * keep
        to_moved = torch.empty_like(moved)  # all parts are filled below
        to_mean, to_state = to_moved[:count], to_moved[count:]
        to_opened, to_new = to_mean[:, : 2 * dim], to_mean[:, 2 * dim :]
        aten.tanh_backward(gradient - to_own, new, grad_input=to_new)
        torch.mul(to_new, moved[count:, 2 * dim :], out=to_opened[:, :dim])
        torch.mul(own - new, gradient, out=to_opened[:, dim:])
        aten.sigmoid_backward(to_opened, opened, grad_input=to_opened)
        to_state[:, : 2 * dim] = to_opened
        torch.mul(to_new, reset, out=to_state[:, 2 * dim :])
        to_mapped = links.back.times(to_moved).view(len(states), -1)  # (U, 9 D)
        to_states = product(to_mapped, weight.t()).add_(links.owned.times(to_own))
        to_weight = product(states.t(), to_mapped.t())  # (D, 9 D)
        to_maps, to_shifts = to_weight.chunk(3, 1), to_mapped.sum(0).chunk(3)
        to_gates = _through_fold(gates, to_maps, to_shifts, to_mean.sum(0))
        return to_states, None, *to_gates


def _through_fold(
    gates: Gates, to_maps: Sequence[Tensor], to_shifts: Sequence[Tensor], to_bias: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of all `Gates`.

    Args:
        gates: the weights.
        to_maps: of the three maps that vectors take, each (D, 3 D).
        to_shifts: of their biases, each (3 D,).
        to_bias: of what all nodes share, (3 D,).
    """
    dim = len(gates.before)
    edges = ((gates.before, gates.before_bias), (gates.after, gates.after_bias))
    to_message, to_edges = [], []
    for (edge, bias), map_, to_map, to_shift in zip(
        edges, gates.message.split_with_sizes([dim, dim], 1), to_maps[:2], to_shifts[:2], strict=True
    ):
        to_map = to_map.contiguous()
        to_message.append(product(edge, to_map.t()).t().addr(to_shift, bias))
        to_edges += [product(to_map, map_.t()).t(), to_shift @ map_]
    message = torch.cat(to_message, 1).addr_(to_bias, gates.shift)
    return *to_edges, to_bias @ gates.message, message, to_bias, to_maps[2].t(), to_shifts[2]
