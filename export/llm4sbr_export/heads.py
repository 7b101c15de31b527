"""From queries to the K best items: exactly, or by a first pass over a compressed table.

`fp32` reads N x Q x 4 bytes, where Q is the width of all tables. The other precisions read a rounded table, a
quarter to a half of that, to select several times K candidates, and score those with the exact rows. Scores
are exact, and the list is exact unless rounding drops one of its items from the candidates. Verification
counts how often that happens.

A few operators are written as ONNX operators directly, since tracing would not produce them. Outside an
export the same modules compute the same result with torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

COARSE = {"int8": (64, 2), "fp16": (64, 2), "qdq": (200, 4)}
"""First passes: integers, for CPUs; half precision; 8-bit rows and queries between quantize and dequantize
operators, for TensorRT. And the number of candidates scored exactly: at least the first number, and at least
the second times K. `qdq` uses one quantization step for all queries, so it needs more candidates."""

MOST_K = 3840
"""Longest list that TensorRT's TopK supports."""

OPSET = 20

BLOCK = 2**16
"""Rows rounded at once."""


def without(scores: Tensor, clicked: Tensor, exclude: Tensor, repeats: Tensor | None = None) -> Tensor:
    """Float (B, N) with -inf at clicked items, rows int64 (B, T), where `exclude` (bool (B, 1)) is true.

    Where it is false, a fuser's `repeats`, a scalar, is added to their scores. An item clicked twice gets the
    same value twice.
    """
    own = scores.gather(1, clicked)
    own = torch.where(exclude, -torch.inf, own if repeats is None else own + repeats)
    return scores.scatter(1, clicked, own)


class Exact(nn.Module):
    """Exact scores: every item's inner products in float32, summed over tables.

    Args:
        tables: float (N, Q_i) each.
        repeats: scalar added to the scores of a session's own items, or None.
    """

    repeats: Tensor | None

    def __init__(self, tables: Sequence[Tensor], *, repeats: Tensor | None = None) -> None:
        super().__init__()
        self.tables = nn.ParameterList([_constant(table) for table in tables])
        self.register_buffer("repeats", None if repeats is None else repeats.detach())

    def forward(
        self,
        queries: Sequence[Tensor],
        clicked: Tensor,
        exclude: Tensor,
        k: int,
        added: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Queries float (B, Q_i), plus `added` (B, N) -> scores (B, K), rows int64 (B, K), best first.

        `allowed`, 0 or minus infinity, is added, too.
        """
        scores = added
        for query, table in zip(queries, self.tables, strict=True):
            scores = product(query, table, scores)
        known = cast(Tensor, scores) if allowed is None else cast(Tensor, scores) + allowed
        best = torch.topk(without(known, clicked, exclude, self.repeats), k)
        return best.values, best.indices


class ReRanked(nn.Module):
    """A coarse first pass, then exact scores of its candidates.

    Args:
        exact: the exact tables.
        precision: one of `COARSE`.
        k: K.
        query_range: largest absolute value in a query, for `qdq`.
    """

    def __init__(self, exact: Exact, precision: str, *, k: int, query_range: float | None = None) -> None:
        super().__init__()
        self.tables, self.repeats = exact.tables, exact.repeats
        tables = [one.detach() for one in exact.tables]
        table = torch.cat(tables, 1) if len(tables) > 1 else tables[0]
        least, times = COARSE[precision]
        self.count = max(k, min(max(least, times * k), len(table), MOST_K))
        self.first: nn.Module
        if precision == "int8":
            self.first = Integers(table)
        elif precision == "fp16":
            self.first = Half(table)
        else:
            self.first = Quantized(table, query_range or 1.0)

    def forward(
        self,
        queries: Sequence[Tensor],
        clicked: Tensor,
        exclude: Tensor,
        k: int,
        added: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `Exact.forward`; of candidates, too, there are as many as are allowed."""
        first = self.first(torch.cat(list(queries), 1), added)
        first = first if allowed is None else first + allowed
        coarse = torch.topk(without(first, clicked, exclude), self.count)
        scores = torch.stack(
            [
                (functional.embedding(coarse.indices, table) @ query.unsqueeze(2)).squeeze(2)
                for query, table in zip(queries, self.tables, strict=True)
            ]
        ).sum(0)  # (B, R)
        if added is not None:
            scores = scores + added.gather(1, coarse.indices)
        if self.repeats is not None:  # added after the first pass, whose scores are on another scale
            own = coarse.indices.unsqueeze(2) == clicked.unsqueeze(1)  # (B, R, T)
            scores = scores + self.repeats * own.to(scores.dtype).amax(2)
        best = torch.topk(torch.where(coarse.values == -torch.inf, -torch.inf, scores), k)
        return best.values, coarse.indices.gather(1, best.indices)


class Integers(nn.Module):
    """8-bit rows and queries, multiplied as integers: fastest on CPUs, for one session or many.

    Each query is divided by its largest entry, so that one session's list does not depend on the rest of the
    batch; this scales a session's scores, which does not matter for selecting candidates
    unless something is added to them. Before that,
    columns are divided by their largest entry, and queries multiplied by it: otherwise a column of large
    numbers, such as clicks next to titles, would leave few quantization steps to the others. Rows use 7 of
    the 8 bits: a CPU without VNNI adds two products in 16 bits, and 2 x 255 x 63 just fits.

    Args:
        table: float (N, Q).
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        balance = torch.maximum(table.amax(0), -table.amin(0)).clamp(min=torch.finfo(torch.float32).tiny)
        rounded, scale = round_rows(table, 63, balance)
        self.register_buffer("columns", rounded.T.contiguous())  # (Q, N), the operator's layout
        self.register_buffer("balance", balance)
        self.register_buffer("scale", scale)
        self.register_buffer("step", torch.tensor(1 / 127))
        self.register_buffer("middle", torch.tensor(128, dtype=torch.uint8))

    columns: Tensor
    balance: Tensor
    scale: Tensor
    step: Tensor
    middle: Tensor

    def forward(self, query: Tensor, added: Tensor | None = None) -> Tensor:
        """Float (B, Q), plus `added` (B, N) -> float (B, N)."""
        balanced = query * self.balance
        largest = balanced.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        scores = self._unit(balanced / largest)
        return scores if added is None else scores * (largest * self.step) + added

    def _unit(self, unit: Tensor) -> Tensor:
        """Float (B, Q) in -1..1 -> float (B, N), to be multiplied by `step`."""
        if not torch.onnx.is_in_onnx_export():
            whole = (unit / self.step).round() @ self.columns.float()
            return whole * self.scale
        steps = _operator("QuantizeLinear", (unit, self.step, self.middle), torch.uint8, unit.shape)
        shape = (unit.shape[0], self.columns.shape[1])
        whole = _operator("MatMulInteger", (steps, self.columns, self.middle), torch.int32, shape)
        return whole.float() * self.scale


class Half(nn.Module):
    """Rows and queries in half precision.

    Args:
        table: float (N, Q).
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("rounded", table.half())

    rounded: Tensor

    def forward(self, query: Tensor, added: Tensor | None = None) -> Tensor:
        """Float (B, Q), plus `added` (B, N) -> float (B, N)."""
        scores = product(query.half(), self.rounded).float()
        return scores if added is None else scores + added


class Quantized(nn.Module):
    """8-bit rows, one scale each, and 8-bit queries, between quantize and dequantize operators.

    Args:
        table: float (N, Q).
        query_range: largest absolute value in a query, measured on real sessions.
    """

    def __init__(self, table: Tensor, query_range: float) -> None:
        super().__init__()
        rounded, scale = round_rows(table, 127, torch.ones(table.shape[1]))
        self.register_buffer("rounded", rounded)
        self.register_buffer("scale", scale)
        self.register_buffer("step", torch.tensor(query_range / 127))
        self.register_buffer("zero", torch.tensor(0, dtype=torch.int8))

    rounded: Tensor
    scale: Tensor
    step: Tensor
    zero: Tensor

    def forward(self, query: Tensor, added: Tensor | None = None) -> Tensor:
        """Float (B, Q), plus `added` (B, N) -> float (B, N)."""
        if not torch.onnx.is_in_onnx_export():
            steps = (query / self.step).round().clamp(-128, 127) * self.step
            return product(steps, self.rounded * self.scale.unsqueeze(1), added)
        steps = _operator("QuantizeLinear", (query, self.step, self.zero), torch.int8, query.shape)
        steps = _operator("DequantizeLinear", (steps, self.step, self.zero), torch.float32, query.shape)
        shape = self.rounded.shape
        rows = _operator("DequantizeLinear", (self.rounded, self.scale), torch.float32, shape, axis=0)
        return product(steps, rows, added)


def round_rows(table: Tensor, most: int, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize float (N, Q), divided by `columns` (Q,), to int8 (N, Q) in -most..most, with a scale per row.

    In blocks, since there is no memory for copies of a catalogue of ten million items.
    """
    scale = torch.empty(len(table))
    rounded = torch.empty(table.shape, dtype=torch.int8)
    for start in range(0, len(table), BLOCK):
        rows = slice(start, start + BLOCK)
        block = table[rows] / columns
        scale[rows] = (block.abs().amax(1) / most).clamp(min=torch.finfo(torch.float32).tiny)
        rounded[rows] = (block / scale[rows].unsqueeze(1)).round()
    return rounded, scale


def product(query: Tensor, table: Tensor, added: Tensor | None = None) -> Tensor:
    """(B, Q) and (N, Q) -> (B, N), plus `added`; one operator, without transposing the table in memory."""
    if torch.onnx.is_in_onnx_export():
        inputs = (query, table) if added is None else (query, table, added)
        return _operator("Gemm", inputs, query.dtype, (query.shape[0], table.shape[0]), transB=1)
    return query @ table.T if added is None else added + query @ table.T


def _constant(table: Tensor) -> nn.Parameter:
    return table if isinstance(table, nn.Parameter) else nn.Parameter(table, requires_grad=False)


def _operator(
    name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, shape: tuple[int, ...], **attributes: int
) -> Tensor:
    return torch.onnx.ops.symbolic(name, inputs, {**attributes}, dtype=dtype, shape=shape, version=OPSET)
