"""A PyTorch that has changed what it never promised makes training slower and nothing else."""

from __future__ import annotations

import inspect
import logging
from types import SimpleNamespace

import pytest
import torch

from llm4sbr.fast import onednn, private
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.testing.backbones import SESSIONS, pad


@pytest.fixture(autouse=True)
def asked_anew():
    """What was found before is forgotten, before and after."""
    caches = (private.products_work, private.formulas_work, onednn.wins)
    for one in caches:
        one.cache_clear()
    yield
    for one in caches:
        one.cache_clear()


class Operators(SimpleNamespace):
    """PyTorch's operators with one of them changed."""

    def __getattr__(self, name):
        return getattr(self.real, name)


def changed(monkeypatch, group: str, **operators) -> None:
    fake = Operators(real=getattr(torch.ops, group), **operators)
    monkeypatch.setattr(torch, "ops", Operators(real=torch.ops, **{group: fake}))


def gone(*args, **kwargs):
    raise AttributeError("no such operator")


def other_arguments(rows, weight):
    raise NotImplementedError


real_linear = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None


def in_many_lines(*given):
    raise RuntimeError("first line\nsecond line " * 100)


def wrong_if(condition):
    """OneDNN's product, one and a half times as large where the condition holds of weight and bias."""
    return lambda rows, weight, bias, *rest: (
        real_linear(rows, weight, bias, *rest) * (1.5 if condition(weight, bias) else 1)
    )


CHANGED = {
    "gone": gone,
    "other arguments": other_arguments,
    "many lines": in_many_lines,
    "wrong": wrong_if(lambda weight, bias: True),
    "wrong with a bias": wrong_if(lambda weight, bias: bias is not None),
    "wrong without one": wrong_if(lambda weight, bias: bias is None),
    "wrong transposed": wrong_if(lambda weight, bias: not weight.is_contiguous()),
    "a row": lambda *given: real_linear(*given)[0],
    "a dimension more": lambda *given: real_linear(*given)[None],
    "rounded": lambda *given: real_linear(*given).round(decimals=2),
}


@pytest.mark.skipif(real_linear is None, reason="PyTorch without oneDNN")
@pytest.mark.parametrize("how", CHANGED)
def test_a_changed_call_of_onednn_is_not_used(monkeypatch, caplog, how):
    changed(monkeypatch, "mkldnn", _linear_pointwise=CHANGED[how])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(onednn, "_CPUINFO", SimpleNamespace(exists=lambda: True, read_text=lambda: "AMD"))
    with caplog.at_level(logging.WARNING):
        assert not onednn.wins()
        rows, weight = torch.randn(300, 4), torch.randn(5, 4)
        assert torch.equal(onednn.product(rows, weight), torch.nn.functional.linear(rows, weight))
        onednn.faster_products()
    (line,) = caplog.records
    assert "oneDNN's matrix products are not used, training is slower" in line.getMessage()
    assert "\n" not in line.getMessage()
    assert len(line.getMessage()) < 400


@pytest.mark.skipif(real_linear is None, reason="PyTorch without oneDNN")
def test_the_call_is_onednns(monkeypatch):
    calls = []
    changed(
        monkeypatch, "mkldnn", _linear_pointwise=lambda *given: calls.append(given) or real_linear(*given)
    )
    rows, weight, bias = torch.randn(6, 4), torch.randn(5, 4), torch.randn(5)
    torch.testing.assert_close(private.linear(rows, weight, bias), rows @ weight.T + bias)
    assert len(calls) == 1


def gradients(model) -> list[torch.Tensor]:
    model.zero_grad()
    items, mask = pad(SESSIONS)
    torch.nn.functional.cross_entropy(
        model(items, mask), torch.ones(len(items), dtype=torch.int64)
    ).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


OPERATORS = {
    "gone": lambda real: gone,
    "wrong": lambda real: lambda gradient, value, **out: gradient * value,
    "writes nothing": lambda real: lambda gradient, value, **out: real(gradient, value),
    "returns another": lambda real: (
        lambda gradient, value, **out: real(gradient, value, **out) if out else 2 * real(gradient, value)
    ),
}
"""How a backward operator may change: name -> the changed one, made of the real one."""


@pytest.mark.parametrize("backbone", ["sr-gnn", "stamp"])
@pytest.mark.parametrize("how", OPERATORS)
@pytest.mark.parametrize("operator", ["tanh_backward", "sigmoid_backward"])
def test_changed_backward_operators_are_not_used(monkeypatch, caplog, backbone, operator, how):
    call = OPERATORS[how](getattr(torch.ops.aten, operator))
    torch.manual_seed(0)
    model = build(Recipe(40, 16, backbone)).train()
    assert private.formulas_work()
    expected = gradients(model)
    private.formulas_work.cache_clear()
    changed(monkeypatch, "aten", **{operator: call})
    with caplog.at_level(logging.WARNING):
        found = gradients(model)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    (line,) = caplog.records
    assert "gradients that are written out are not used" in line.getMessage()


def test_without_a_way_past_function_modes_nothing_is_written_out(monkeypatch, caplog):
    monkeypatch.delattr(torch._C, "DisableTorchFunction")
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        assert gradients(build(Recipe(40, 16, "sr-gnn")).train())
    (line,) = caplog.records
    assert "gradients that are written out are not used" in line.getMessage()


def test_this_pytorch_has_them_all(caplog):
    assert private.formulas_work()
    assert private.products_work() or not torch.backends.mkldnn.is_available()
    assert not caplog.records


def test_nothing_else_in_fast_calls_what_is_private():
    """`backbones` calls the two backward operators that are tried, `onednn` goes through `private`."""
    source = inspect.getsource(onednn)
    assert "torch.ops" not in source
