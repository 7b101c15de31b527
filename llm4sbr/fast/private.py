"""Checks the private PyTorch functions that `fast` uses, before they are used.

A new PyTorch version may rename such a function, or change its arguments or result. Each group is tried once
per process on small numbers. If the result is wrong, models use PyTorch's public functions instead, which are
slower but give the same results, and a warning is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

log = logging.getLogger(__name__)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """OneDNN's `linear`, float32 (..., K) and (N, K) -> (..., N)."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], ""))


@cache
def products_work() -> bool:
    """Whether oneDNN can be called as `linear` does."""
    return _works("oneDNN's matrix products", _try_products)


@cache
def formulas_work() -> bool:
    """Whether PyTorch's own backward operators can be called, without function modes noticing."""
    return _works("gradients that are written out", _try_formulas)


def _works(what: str, attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except Exception as error:  # whatever a future PyTorch raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        log.warning("PyTorch %s: %s are not used, training is slower (%s)", torch.__version__, what, reason)
        return False
    return True


@torch.no_grad()
def _try_products() -> None:
    rows, weight, bias = _numbers(6, 4), _numbers(5, 4), _numbers(5)
    for one in (weight, weight.t().contiguous().t()):
        _same(linear(rows, one, None), functional.linear(rows, one))
        _same(linear(rows, one, bias), functional.linear(rows, one, bias))


@torch.no_grad()
def _try_formulas() -> None:
    aten = torch.ops.aten
    gradient, given = _numbers(5), _numbers(5) / 8
    with torch._C.DisableTorchFunction():
        for backward, expected in (
            (aten.tanh_backward, gradient * (1 - given * given)),
            (aten.sigmoid_backward, gradient * given * (1 - given)),
        ):
            _same(backward(gradient, given), expected)
            out = torch.empty_like(gradient)
            backward(gradient, given, grad_input=out)
            _same(out, expected)


def _numbers(*shape: int) -> Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape).sin()


def _same(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise ValueError("other numbers than before")
