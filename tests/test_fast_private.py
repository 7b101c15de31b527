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

CHANGED = [
    gone,
    other_arguments,
    lambda *given: 1.5 * real_linear(*given),
    lambda *given: real_linear(*given)[0],
]


@pytest.mark.skipif(real_linear is None, reason="PyTorch without oneDNN")
@pytest.mark.parametrize("call", CHANGED)
def test_a_changed_call_of_onednn_is_not_used(monkeypatch, caplog, call):
    changed(monkeypatch, "mkldnn", _linear_pointwise=call)
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


def gradients(model) -> list[torch.Tensor]:
    model.zero_grad()
    items, mask = pad(SESSIONS)
    torch.nn.functional.cross_entropy(
        model(items, mask), torch.ones(len(items), dtype=torch.int64)
    ).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("backbone", ["sr-gnn", "stamp"])
@pytest.mark.parametrize("call", [gone, lambda gradient, value, **out: gradient * value])
@pytest.mark.parametrize("operator", ["tanh_backward", "sigmoid_backward"])
def test_changed_backward_operators_are_not_used(monkeypatch, caplog, backbone, operator, call):
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


def test_this_pytorch_has_them_all(caplog):
    assert private.formulas_work()
    assert private.products_work() or not torch.backends.mkldnn.is_available()
    assert not caplog.records


def test_nothing_else_in_fast_calls_what_is_private():
    """`backbones` calls the two backward operators that are tried, `onednn` goes through `private`."""
    source = inspect.getsource(onednn)
    assert "torch.ops" not in source
