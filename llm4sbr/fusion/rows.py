"""Rows of the score tables of catalogue fusers: all items' for a model without intents, and new items'."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def folded(fuser: Any, tables: list[Tensor]) -> Tensor:
    """One table (N, D + 1) for [fused; 1]: without intents, the queries are an affine map of `fused`."""
    dim = tables[0].shape[1]
    start = fuser.queries(torch.zeros(1, dim), None)
    slopes = [query - first for query, first in zip(fuser.queries(torch.eye(dim), None), start, strict=True)]
    columns = [
        sum(table @ query.T for table, query in zip(tables, queries, strict=True))
        for queries in (slopes, start)
    ]
    return torch.cat(cast(list[Tensor], columns), 1)


def new_rows(fuser: Any, vectors: Tensor, *, without_intents: bool) -> Tensor:
    """Rows float (n, Q) of items that nobody clicked, for the session's query, of text vectors (n, E).

    Args:
        fuser: has `factors_of_new`.
        vectors: float (n, E).
        without_intents: the query is [fused; 1], as for `folded`; else that of the fuser, its parts in a row.
    """
    with torch.no_grad():
        tables: list[Tensor] = fuser.factors_of_new(vectors)
        return folded(fuser, tables) if without_intents else torch.cat(tables, 1)
