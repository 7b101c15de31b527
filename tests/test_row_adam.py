"""Adam on the rows in use: the same as on the whole table, at the cost of the rows."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from llm4sbr.training.row_adam import RowAdam

ROWS, RATE = 30, 0.01


def table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, *shape))


def step(optimizer: RowAdam, index: torch.Tensor, *gradients: torch.Tensor) -> None:
    rows = optimizer.rows(index)
    sum((one * gradient).sum() for one, gradient in zip(rows, gradients, strict=True)).backward()
    optimizer.step()


def test_with_all_rows_it_is_adam() -> None:
    torch.manual_seed(0)
    one, two = table(4), table()
    first, second = nn.Parameter(one.detach().clone()), nn.Parameter(two.detach().clone())
    ours = RowAdam([one, two], RATE, l2=0.1)
    theirs = torch.optim.Adam([first, second], RATE, weight_decay=0.1)
    for _ in range(50):
        first.grad, second.grad = torch.randn(ROWS, 4), torch.randn(ROWS)
        step(ours, torch.arange(ROWS), first.grad, second.grad)
        theirs.step()
    torch.testing.assert_close(one, first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two, second, rtol=1e-5, atol=1e-6)


def test_rows_that_were_away_catch_up() -> None:
    """As Adam with a gradient of zero where a row was not used; within 2% of the way it went."""
    torch.manual_seed(0)
    given = table(4)
    other = nn.Parameter(given.detach().clone())
    ours, theirs = RowAdam([given], RATE, l2=0.0), torch.optim.Adam([other], RATE)
    for number in range(600):
        index = torch.arange(ROWS) if number < 200 else torch.randperm(ROWS)[: 1 + number % 7]
        gradient = torch.randn(len(index), 4) + index.unsqueeze(1) / ROWS
        other.grad = torch.zeros_like(other).index_copy_(0, index, gradient)
        step(ours, index, gradient)
        theirs.step()
        if number == 199:
            before = other.detach().clone()
            torch.testing.assert_close(given, other, rtol=1e-5, atol=1e-5)
    ours.settle()
    assert (other - before).abs().mean() > 0.3
    torch.testing.assert_close(given, other, rtol=0, atol=5e-3)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(ours.state[given][name], theirs.state[other][name], rtol=1e-4, atol=1e-7)


def test_other_rows_are_not_touched() -> None:
    torch.manual_seed(0)
    given = table(4)
    before = given.detach().clone()
    optimizer = RowAdam([given], RATE, l2=0.1)
    for _ in range(5):
        step(optimizer, torch.tensor([3, 7]), torch.randn(2, 4))
    changed = (given != before).any(1).nonzero().squeeze(1)
    assert changed.tolist() == [3, 7]
    moments = optimizer.state[given]["exp_avg_sq"].any(1).nonzero().squeeze(1)
    assert moments.tolist() == [3, 7]
    optimizer.settle()  # a row that never had a gradient has nothing to catch up with
    assert (given != before).any(1).nonzero().squeeze(1).tolist() == [3, 7]


def test_a_table_without_a_gradient_stays() -> None:
    torch.manual_seed(0)
    one, two = table(4), table(2)
    before = two.detach().clone()
    optimizer = RowAdam([one, two], RATE, l2=0.0)
    rows = optimizer.rows(torch.tensor([0, 5]))
    rows[0].sum().backward()
    optimizer.step()
    assert torch.equal(two, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_is_enough_to_go_on(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    one = nn.Parameter(torch.randn(ROWS, 4, dtype=dtype))
    first = RowAdam([one], RATE, l2=0.1)
    for number in range(9):
        step(first, torch.arange(number % 5, ROWS, 4), torch.randn(len(range(number % 5, ROWS, 4)), 4))
    first.settle()
    two = nn.Parameter(one.detach().clone())
    second = RowAdam([two], RATE, l2=0.1)
    second.load_state_dict(deepcopy(first.state_dict()))
    for number in range(9):
        index = torch.arange(number % 3, ROWS, 3)
        gradient = torch.randn(len(index), 4)
        step(first, index, gradient)
        step(second, index, gradient)
    first.settle()
    second.settle()
    assert torch.equal(one, two)
