"""Float32 on the fast ways, from as many rows on as these take, against the same formula in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from llm4sbr.fast import onednn

B, T, D, N, P, E = 260, 5, 8, 30, 3, 6
assert onednn.FEW < B


@contextmanager
def where_it_wins() -> Iterator[None]:
    """As on a processor on which oneDNN is the faster one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "wins", lambda: True)
        yield


@contextmanager
def in_double() -> Iterator[None]:
    """float64 where nothing else is said."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(count: int = B) -> tuple[Tensor, Tensor]:
    """Sessions of 1 to T clicks in which items come back: int64 (count, T), bool (count, T)."""
    random = torch.Generator().manual_seed(1)
    mask = torch.arange(T) < torch.randint(1, T + 1, (count, 1), generator=random)
    return torch.randint(1, N + 1, (count, T), generator=random) * mask, mask


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for float32's rounding of the largest value."""
    assert ours.dtype == torch.float32
    ours, theirs = ours.detach().double(), theirs.detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()) + 1e-12)


def same(fast: Callable[..., Tensor], plain: Callable[..., Tensor], *given: Tensor) -> None:
    """Both give one result and one gradient for each of the given tensors, the plain one in float64."""
    first = [one.clone().requires_grad_() for one in given]
    second = [one.double().requires_grad_() for one in given]
    with where_it_wins():
        ours = fast(*first)
        towards = numbers(*ours.shape, seed=2)
        ours.backward(towards)
    theirs = plain(*second)
    theirs.backward(towards.double())
    close(ours, theirs)
    for one, two in zip(first, second, strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            close(one.grad, two.grad)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer of these very tensors."""
    layer = nn.Linear(1, 1, bias=False)
    del layer.weight, layer.bias
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    return layer
