"""oneDNN's products are PyTorch's own, forward and backward, and nothing else is touched."""

from __future__ import annotations

import time

import pytest
import torch
from torch.nn import functional

from llm4sbr.fast import onednn
from llm4sbr.fast.onednn import OneDNN
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.testing.backbones import SESSIONS, pad

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


def outcome(function, *shapes, context):
    random = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
    with context:
        result = function(*given)
    (result * torch.arange(result.numel()).view_as(result) / result.numel()).sum().backward()
    return [result, *(one.grad for one in given)]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (functional.linear, [(3, 5), (7, 5)]),
        (functional.linear, [(2, 3, 5), (4, 5), (4,)]),
        (functional.linear, [(2, 3, 1), (1, 1), (1,)]),
        (torch.matmul, [(3, 5), (5, 7)]),
        (lambda a, b: a @ b.T, [(3, 5), (7, 5)]),
        (lambda a, b: a[:, 1:] @ b[:, 1:].T, [(3, 5), (7, 5)]),
    ],
)
def test_same_as_without(function, shapes):
    context = OneDNN()
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        product = onednn._product
        patch.setattr(onednn, "_product", lambda *given: calls.append(1) or product(*given))
        ours = outcome(function, *shapes, context=context)
    theirs = outcome(function, *shapes, context=torch.enable_grad())
    assert len(calls) == 3  # one forward, two backward
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_gaps_between_rows_cost_little():
    wide = torch.randn(64, 3001)

    def seconds(weight):
        begun = time.thread_time()
        onednn.product(wide[:, 1:], weight)
        return time.thread_time() - begun

    gaps = min(seconds(wide[:, 1:]) for _ in range(3))
    assert gaps < 20 * min(seconds(wide[:, 1:].contiguous()) for _ in range(3))  # 2,000 without the copy


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.ones(2, 3, 4), torch.ones(2, 4, 5)),
        (torch.ones(2, 3, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)),
        (torch.ones(3), torch.ones(3)),
        (torch.ones(0, 3), torch.ones(3, 2)),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64)),
    ],
)
def test_other_products_are_left_alone(first, second):
    with OneDNN():
        result = first @ second
    assert torch.equal(result, first @ second)


def test_a_model_learns_the_same():
    recipe = Recipe(40, 16, "sr-gnn", fuser="gated", perspectives=("long",), horizons=("long",), text_dim=6)
    torch.manual_seed(0)
    model = build(recipe)
    intents, target = torch.randn(len(SESSIONS), 1, 6), torch.ones(len(SESSIONS), dtype=torch.int64)
    gradients = []
    for context in (OneDNN(), torch.enable_grad()):
        model.zero_grad()
        with context:
            functional.cross_entropy(model(*pad(SESSIONS), intents), target).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
