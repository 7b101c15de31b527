"""The session graphs of a batch as one list of nodes and a sparse matrix, for training on a CPU.

`graph.session_graph` holds the same edges as dense (B, T, T) tensors, which export and batch on a GPU. Here
nothing is padded, a node is computed once however often its item is clicked, and linear maps of items run
over the distinct items of the whole batch: fewer than half of its clicks on ML-1M.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llm4sbr.fast.onednn import unwatched

ROWS = 64
"""Tables are padded to a multiple of this, with unused rows at the end: oneDNN prepares a kernel for each new
number of rows, which takes as long as the product itself."""


class Bags(NamedTuple):
    """A sparse matrix by rows: for each row, the columns to add up and their weights."""

    column: Tensor
    """int64 (entries,), row by row."""
    offsets: Tensor
    """int64 (rows + 1,), where each row begins in `column`."""
    weight: Tensor | None = None
    """float (entries,); None: all 1."""

    def times(self, table: Tensor) -> Tensor:
        """The product with float (columns, D), float (rows, D); without autograd."""
        return torch.embedding_bag(table, self.column, self.offsets, False, 0, False, self.weight, True)[0]


class Links(NamedTuple):
    """The edges between a table of U vectors, mapped in three ways, and V nodes.

    Row 3 u of the mapped table is vector u for nodes clicked right after it, row 3 u + 1 for nodes clicked
    right before it, and row 3 u + 2 for nodes that it is the state of.
    """

    own: Tensor
    """int64 (V,), the table's vector that is the node's state."""
    there: Bags
    """(2 V, 3 U): row v averages over node v's neighbours, row V + v selects the node's own state."""
    back: Bags
    """Its transpose, (3 U, 2 V)."""
    owned: Bags
    """(U, V): sums the nodes that have the same state vector."""


class Nodes(NamedTuple):
    """The V nodes of a batch: distinct items, session by session, then padding nodes without a click."""

    distinct: Tensor
    """int64 (U,), the catalogue ids in the batch."""
    item: Tensor
    """int64 (V,), a node's position in `distinct`."""
    session: Tensor
    """int64 (V,)."""
    offsets: Tensor
    """int64 (B + 1,), where each session's nodes begin."""
    clicked: Tensor
    """float (V,), number of clicks on its item."""
    last: Tensor
    """int64 (B,), the node of each session's last click."""
    clicks: Tensor
    """int64 (B, T), the node of each click; 0 at padding."""
    before: Tensor
    """int64 (edges,), the node where each distinct edge begins."""
    after: Tensor
    """int64 (edges,), the node where it ends."""

    @unwatched
    def links(self, own: Tensor, size: int) -> Links:
        """The edges for a table of `size` vectors, where node v's state is vector `own[v]`."""
        count = len(own)
        weight_in, weight_out = (_shares(ends, count) for ends in (self.after, self.before))
        rows = torch.cat([self.after, self.before, torch.arange(count, 2 * count)])
        columns = torch.cat([3 * own[self.before], 3 * own[self.after] + 1, 3 * own + 2])
        weights = torch.cat([weight_in, weight_out, torch.ones_like(self.clicked)])
        order = _order(own)
        return Links(
            own,
            _bags(rows, columns, weights, 2 * count),
            _bags(columns, rows, weights, 3 * size),
            Bags(order, _offsets(own, size)),
        )


@unwatched
def session_nodes(items: Tensor, mask: Tensor) -> Nodes:
    """The graphs of Wu et al. 2019, as in `graph.session_graph`.

    Args:
        items: int64 (B, T), right-padded.
        mask: bool (B, T), true at clicks; at least one in every session.
    """
    lengths = mask.sum(1)
    session = torch.repeat_interleave(lengths)
    distinct, item = torch.unique(items[mask], return_inverse=True)
    size = len(distinct)
    key, node, count = torch.unique(session * size + item, return_inverse=True, return_counts=True)
    total = len(key)
    follows = session[1:] == session[:-1]
    edges = torch.unique((node[:-1] * total + node[1:])[follows])
    clicks = torch.zeros_like(items)
    clicks[mask] = node
    owner = _filled(key // size, len(items) - 1)
    return Nodes(
        distinct=_filled(distinct, int(distinct[0])),
        item=_filled(key % size, 0),
        session=owner,
        offsets=_offsets(owner, len(items)),
        clicked=_filled(count.to(torch.get_default_dtype()), 0),
        last=node[lengths.cumsum(0) - 1],
        clicks=clicks,
        before=edges // total,
        after=edges % total,
    )


def _filled(numbers: Tensor, value: int) -> Tensor:
    """Round up to a multiple of `ROWS`."""
    return functional.pad(numbers, (0, -len(numbers) % ROWS), value=value)


def _shares(ends: Tensor, count: int) -> Tensor:
    """1 / number of edges with the same end, for each edge."""
    return torch.bincount(ends, minlength=count)[ends].to(torch.get_default_dtype()).reciprocal_()


def _bags(rows: Tensor, columns: Tensor, weights: Tensor, count: int) -> Bags:
    order = _order(rows)
    return Bags(columns[order], _offsets(rows, count), weights[order])


def _offsets(rows: Tensor, count: int) -> Tensor:
    offsets = torch.zeros(count + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(rows, minlength=count), 0, out=offsets[1:])
    return offsets


def _order(numbers: Tensor) -> Tensor:
    """A stable argsort; NumPy sorts unique keys on AVX-512 in a fifth of the time of an argsort."""
    count = max(1, len(numbers))
    key = (numbers * count + torch.arange(len(numbers))).numpy()
    key.sort()
    return torch.from_numpy(np.remainder(key, count, out=key))
