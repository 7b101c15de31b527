"""Matrix products by oneDNN in training, on CPUs where PyTorch's default for float32 is slower.

PyTorch multiplies float32 matrices on x86 with MKL, which uses half the vector width on processors not made
by Intel; oneDNN, which is part of PyTorch, uses all of it. Inside the context below, `linear` and products of
two matrices use oneDNN, forward and backward, in full float32: results differ only by the order of additions.
Models need not know about it, except for the hand-written gradients of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from llm4sbr.fast import private

_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__}
P = ParamSpec("P")
R = TypeVar("R")
FEW = 256
"""Minimum number of rows for which the faster product is worth a copy of the result."""
_CPUINFO = Path("/proc/cpuinfo")


@cache
def wins() -> bool:
    """Whether oneDNN is available and faster on this machine (Linux, AVX-512, not Intel)."""
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    wide = built and torch.backends.cpu.get_cpu_capability() == "AVX512"
    faster = wide and _CPUINFO.exists() and "GenuineIntel" not in _CPUINFO.read_text()
    return bool(faster and private.products_work())


def faster_products() -> AbstractContextManager[Any]:
    """`OneDNN` where it is faster; elsewhere a context that does nothing."""
    return OneDNN() if wins() else nullcontext()


def applies(module: nn.Module, states: Tensor) -> bool:
    """Whether a module in its current state can use hand-written gradients for this input."""
    return module.training and usable(states)


def usable(states: Tensor) -> bool:
    """Whether hand-written gradients can be used for this input."""
    return (
        states.requires_grad
        and states.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and private.formulas_work()
    )


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` without autograd, (..., K) and (N, K) -> (..., N), by oneDNN where it is faster."""
    if wins() and _ours(rows, weight):
        return _product(rows, weight, bias)
    return functional.linear(rows, weight, bias)


def unwatched(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: hides a function's calls from the context, whose inspection takes as long as a call."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return inner


def weight_gradient(given: Tensor, gradient: Tensor, multiply: Callable[..., Tensor] = product) -> Tensor:
    """The weight's gradient (N, K), from the input (M, K) and the gradient (M, N) of the product."""
    # Which order is faster for oneDNN depends on the shapes, but a transposed result must be copied later.
    if gradient.shape[1] >= given.shape[1] and len(given) > FEW:
        return multiply(given.t(), gradient.t()).t()
    return multiply(gradient.t(), given.t())


class OneDNN(TorchFunctionMode):
    """A context in which float32 matrix products on the CPU, and their gradients, are computed by oneDNN."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace `linear` and `matmul` of matrices, and leave everything else unchanged."""
        if not kwargs:
            if func is functional.linear and _ours(args[0], args[1]):
                return _Linear.apply(*args, *[None] * (3 - len(args)))  # type: ignore[no-untyped-call]
            if func in _MATMUL and args[0].ndim == args[1].ndim == 2 and _ours(args[0], args[1]):
                return _Linear.apply(args[0], args[1].t(), None)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _ours(given: Tensor, weight: Tensor) -> bool:
    both = (given, weight)
    return given.ndim >= 2 and all(
        one.dtype == torch.float32 and one.device.type == "cpu" and one.numel() for one in both
    )


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., K) and (N, K) -> (..., N)."""
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # oneDNN is very slow for weights whose rows are not contiguous
    return private.linear(rows, weight, bias)


class _Linear(torch.autograd.Function):
    """given . weight^T + bias."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(given, weight)
        return _product(given, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        given, weight = ctx.saved_tensors
        needs_given, needs_weight, needs_bias = ctx.needs_input_grad
        to_given = _product(gradient, weight.t()) if needs_given else None
        flat = gradient.flatten(0, -2)  # (M, N)
        to_weight = weight_gradient(given.flatten(0, -2), flat, _product) if needs_weight else None
        return to_given, to_weight, flat.sum(0) if needs_bias else None
