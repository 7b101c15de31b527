"""Adam for item tables of which a step uses few rows; it touches only these.

Of a row without a gradient Adam still lets the moments fall, and moves it on by what is left of the first. A
row catches up with the k steps that it missed when it is used next, or at the end of an epoch:

    w <- w - rate m / sqrt(v) (r + r^2 + ... + r^k)    r = b1 / sqrt(b2)    m <- b1^k m    v <- b2^k v

so that weights are those of Adam on the whole table, except that the sum leaves epsilon out and takes the
correction of the first steps as constant. The L2 penalty counts where a row has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

BETAS = (0.9, 0.999)
EPSILON = 1e-8
BLOCK = 2**16
"""Rows that catch up at once at the end of an epoch."""


class RowAdam(Optimizer):
    """Adam whose step costs as much as the rows in use.

    Args:
        tables: parameters (N, ...) with a row per item each.
        learning_rate: the rate; changes where all rows have caught up.
        l2: weight of the L2 penalty.
    """

    def __init__(self, tables: Sequence[nn.Parameter], learning_rate: float, *, l2: float) -> None:
        super().__init__(tables, {"lr": learning_rate, "weight_decay": l2})
        self.tables = list(tables)
        self.last = torch.zeros(len(self.tables[0]), dtype=torch.int32, device=self.tables[0].device)
        """Int32 (N,), the step up to which a row is."""
        for table in self.tables:
            step = torch.zeros((), dtype=torch.int64)
            self.state[table] = {"step": step, "exp_avg": torch.zeros_like(table)}
            self.state[table]["exp_avg_sq"] = torch.zeros_like(table)
        self._index = torch.zeros(0, dtype=torch.int64)
        self._used: list[_Rows] = []

    @torch.no_grad()
    def rows(self, index: Tensor) -> tuple[Tensor, ...]:
        """Rows (C, ...) of every table, which get the gradients that `step` uses.

        Args:
            index: int64 (C,), distinct.
        """
        self._index = index
        used = [_Rows(*(one.index_select(0, index) for one in self._of(table))) for table in self.tables]
        self._catch_up(used, self.last[index])
        self._used = [one._replace(weights=one.weights.requires_grad_()) for one in used]
        return tuple(one.weights for one in self._used)

    @property
    def gradients(self) -> list[Tensor]:
        """Of the rows in use."""
        return [one.weights.grad for one in self._used if one.weights.grad is not None]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the rows in use, which then are no longer in use."""
        [group], now = self.param_groups, self._now + 1
        first, second = 1 - BETAS[0] ** now, 1 - BETAS[1] ** now
        for table, used in zip(self.tables, self._used, strict=True):
            weights, mean, square = used
            gradient = group["weight_decay"] * weights
            if weights.grad is not None:
                gradient += weights.grad
            mean.lerp_(gradient, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            root = (square / second).sqrt_().add_(EPSILON)
            weights.addcdiv_(mean, root, value=-group["lr"] / first)
            for whole, rows in zip(self._of(table), used, strict=True):
                whole.index_copy_(0, self._index, rows)
            self.state[table]["step"] += 1
        self.last[self._index] = now
        self._used = []

    @torch.no_grad()
    def settle(self) -> None:
        """All rows catch up."""
        for start in range(0, len(self.last), BLOCK):
            end = start + BLOCK
            rows = [_Rows(*(one[start:end] for one in self._of(table))) for table in self.tables]
            self._catch_up(rows, self.last[start:end])
        self.last.fill_(self._now)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The state of settled rows."""
        super().load_state_dict(state_dict)
        self.last.fill_(self._now)

    @property
    def _now(self) -> int:
        return int(self.state[self.tables[0]]["step"])

    def _of(self, table: Tensor) -> _Rows:
        state = self.state[table]
        return _Rows(table.detach(), state["exp_avg"], state["exp_avg_sq"])

    def _catch_up(self, tables: Sequence[_Rows], last: Tensor) -> None:
        """Let rows (C, ...) of every table, which are at the steps int32 (C,), catch up, in place."""
        [group], past = self.param_groups, last.double()
        missed = self._now - past
        first, second = 1 - BETAS[0] ** (past + 1), 1 - BETAS[1] ** (past + 1)
        ratio = BETAS[0] / BETAS[1] ** 0.5
        far = group["lr"] * ratio * (1 - ratio**missed) / (1 - ratio) * second.sqrt() / first
        for rows in tables:
            moved, less, smaller = (
                one.to(rows.mean.dtype).view(-1, *[1] * (rows.mean.ndim - 1))
                for one in (far, BETAS[0] ** missed, BETAS[1] ** missed)
            )
            rows.weights.sub_(rows.mean / (rows.square.sqrt() + EPSILON) * moved)
            rows.mean.mul_(less)
            rows.square.mul_(smaller)


class _Rows(NamedTuple):
    """Rows of a table and their moments, (C, ...) each."""

    weights: Tensor
    mean: Tensor
    square: Tensor
