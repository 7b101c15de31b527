"""Which products oneDNN computes where it wins, that they are right, and that all others are left alone."""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.fast import onednn

sys.path.insert(0, str(Path(__file__).parent))
from against_double import B, D, N, close, numbers, same, where_it_wins

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


@contextmanager
def counted() -> Iterator[list[tuple[int, ...]]]:
    """The shape of the first factor of every product that oneDNN is asked for."""
    asked: list[tuple[int, ...]] = []
    real = onednn._product

    def count(*given: Tensor) -> Tensor:
        asked.append(tuple(given[0].shape))
        return real(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "_product", count)
        yield asked


def inside(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function with its products in the context."""

    def inner(*given: Tensor, **named: Tensor) -> Tensor:
        with onednn.OneDNN():
            return function(*given, **named)

    return inner


def test_products_of_models() -> None:
    """With and without a bias, wide and narrow, of many rows and of few: one forward, two backward."""
    for rows in (B, 30):
        for width, wider in ((D, 2 * D), (2 * D, D)):
            given, weight = numbers(rows, width), numbers(wider, width, seed=3)
            for function, *rest in (
                (functional.linear, given, weight),
                (functional.linear, given, weight, numbers(wider)),
                (torch.matmul, given, numbers(width, wider)),
                (lambda one, two: one @ two.T, given, weight),
                (lambda one, two: one[:, 1:] @ two[:, 1:].T, given, weight),
                (functional.linear, given.view(2, rows // 2, width), weight),
            ):
                with counted() as asked:
                    same(inside(function), function, *rest)
                assert len(asked) == 3


def test_products_without_a_gradient() -> None:
    weight, bias = numbers(N, D), numbers(N)
    for given in (numbers(B, D), numbers(B, 2, D)):
        with where_it_wins(), counted() as asked:
            close(
                onednn.product(given, weight, bias),
                functional.linear(*map(Tensor.double, (given, weight, bias))),
            )
        assert asked == [given.shape]
    with counted() as asked, pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "wins", lambda: False)
        close(onednn.product(given, weight), functional.linear(given.double(), weight.double()))
    assert asked == []
    gaps = numbers(N, 2 * D)[:, ::2]
    with where_it_wins():
        close(onednn.product(numbers(B, D), gaps), numbers(B, D).double() @ gaps.double().T)


def test_only_gradients_that_are_wanted_are_computed() -> None:
    for wanted in range(3):
        given = [numbers(B, D), numbers(N, D), numbers(N)]
        given[wanted].requires_grad_()
        with counted() as asked:
            inside(functional.linear)(*given).sum().backward()
        assert len(asked) == (1 if wanted == 2 else 2)


def test_other_products_are_left_alone() -> None:
    """And what is no product of two float32 matrices is what it is without the context."""
    double = numbers(B, D).double()
    with counted() as asked:
        assert torch.equal(inside(torch.matmul)(double, double.T), double @ double.T)
        assert torch.equal(inside(functional.linear)(double, double), double @ double.T)
        assert torch.equal(inside(torch.mul)(double.float(), double.float()), double.float().square())
        three, two = numbers(2, 3, D), numbers(D, 4)
        assert torch.equal(inside(torch.matmul)(three, two), three @ two)
        assert torch.equal(inside(torch.matmul)(two.T, three.mT), two.T @ three.mT)
        row = numbers(D)
        assert torch.equal(
            inside(functional.linear)(row, double.float()), functional.linear(row, double.float())
        )
        assert inside(torch.matmul)(numbers(0, D), two).shape == (0, 4)
        assert inside(functional.linear)(numbers(B, D), numbers(0, D)).shape == (B, 0)
        assert torch.equal(inside(torch.matmul)(input=two, other=two.T), two @ two.T)
        with pytest.raises(RuntimeError):
            inside(functional.linear)(two, double)
    assert asked == []


def test_an_unwatched_function_is_not_seen_by_the_context() -> None:
    given, weight = numbers(B, D), numbers(N, D)
    with counted() as asked:
        result = inside(onednn.unwatched(functional.linear))(given, weight)
    assert asked == []
    assert torch.equal(result, functional.linear(given, weight))


def test_where_gradients_written_out_are_used() -> None:
    layer = nn.Linear(1, 1)
    states = numbers(1).requires_grad_()
    assert onednn.applies(layer.train(), states)
    assert not onednn.applies(layer.eval(), states)
    assert not onednn.applies(layer.train(), states.detach())
    assert onednn.usable(states)
    assert not onednn.usable(states.detach())
    assert not onednn.usable(torch.zeros(1, device="meta", requires_grad=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert not onednn.usable(states)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not onednn.usable(states)


def test_where_onednn_wins() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cpuinfo = Path(folder) / "cpuinfo"
        for built, capability, vendor, expected in (
            (True, "AVX512", "AuthenticAMD", True),
            (True, "AVX512", "GenuineIntel", False),
            (True, "AVX2", "AuthenticAMD", False),
            (False, "AVX512", "AuthenticAMD", False),
            (True, "AVX512", None, False),  # another system than Linux
        ):
            cpuinfo.unlink(missing_ok=True)
            if vendor:
                cpuinfo.write_text(f"vendor_id\t: {vendor}\n")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.backends.mkldnn, "is_available", lambda built=built: built)
                patch.setattr(
                    torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability
                )
                patch.setattr(onednn, "_CPUINFO", cpuinfo)
                assert inspect.unwrap(onednn.wins)() is expected


def test_the_context_does_nothing_where_onednn_does_not_win() -> None:
    with where_it_wins():
        assert isinstance(onednn.faster_products(), onednn.OneDNN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "wins", lambda: False)
        assert isinstance(onednn.faster_products(), nullcontext)
