"""Ridge regression of every item on all others, from sums over sessions: dense, or on each item's own few.

Column j of B minimises a quadratic form with the gram matrix G (N, N) and the products R (N, N) with targets:

    B_j = argmin b'Gb - 2 b'R_j     =>     B = G^-1 R
    with b_j = 0:                          B_j - P_j B_jj / P_jj,   P = G^-1

The dense solution takes some 3 N^3 operations and 12 N^2 bytes. Where that is too much, b has only the
`support` items that would gain most one by one, R_ij^2 / G_ii, and N small systems are solved side by side.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

CELLS = 2**22
"""Matrix elements of small systems that are held at once."""


def dense(gram: csr_array, targets: csr_array, *, own: bool) -> Floats:
    """B, float32 (N, N), by Cholesky factors; without `own` no item explains itself: B_jj = 0."""
    factor = torch.linalg.cholesky(torch.from_numpy(gram.toarray()))
    inverse = torch.cholesky_inverse(factor)
    weights = inverse @ torch.from_numpy(targets.toarray())
    if not own:
        weights -= inverse * (weights.diagonal() / inverse.diagonal())
        weights.fill_diagonal_(0)
    found: Floats = weights.numpy()
    return found


def sparse(gram: csr_array, targets: csr_array, *, own: bool, support: int) -> csr_array:
    """B, sparse float32 (N, N), with at most `support` elements a column."""
    rows, columns, values = _support(gram, targets, own=own, most=support)
    counts = np.bincount(columns, minlength=gram.shape[0])
    starts = np.cumsum(counts) - counts
    weights = np.zeros(len(rows), np.float32)
    gram.sort_indices()  # elements are found by bisection
    for part in _alike(counts):
        width = np.arange(counts[part].max())
        inside = width < counts[part][:, None]
        where = np.where(inside, starts[part][:, None] + width, 0)
        found = _solve(gram, rows[where], values[where], inside)
        weights[where[inside]] = found[inside]
    return csr_array((weights, (rows, columns)), shape=gram.shape)


def strongest(weights: Floats | csr_array, most: int) -> csr_array:
    """The `most` greatest weights above 0 of each row."""
    if isinstance(weights, csr_array):
        rows, columns, values = _entries(weights)
        keep = values > 0
        rows, columns, values = rows[keep], columns[keep], values[keep]
        first = _first(rows, values, most)
        rows, columns, values = rows[first], columns[first], values[first]
    else:
        most = min(most, weights.shape[1])
        columns = np.argpartition(-weights, most - 1, axis=1)[:, :most]
        values = np.take_along_axis(weights, columns, 1)
        rows, rank = np.nonzero(values > 0)
        columns, values = columns[rows, rank], values[rows, rank]
    return csr_array((values, (rows, columns)), shape=weights.shape)


def _support(gram: csr_array, targets: csr_array, *, own: bool, most: int) -> tuple[Ints, Ints, Floats]:
    """Rows, columns and R_ij of the elements that B may have, by column."""
    rows, columns, values = _entries(csc_array(targets))
    keep = (values > 0) if own else (values > 0) & (rows != columns)
    rows, columns, values = rows[keep], columns[keep], values[keep]
    gain = np.where(rows == columns, np.inf, values / np.sqrt(gram.diagonal()[rows]))
    first = _first(columns, gain, most)
    return rows[first], columns[first], values[first]


def _entries(matrix: csr_array | csc_array) -> tuple[Ints, Ints, Floats]:
    found = matrix.tocoo()
    return found.row.astype(np.int64), found.col.astype(np.int64), found.data


def _first(groups: Ints, values: NDArray[np.floating], most: int) -> Ints:
    """Where the `most` greatest values of each group stand, group by group."""
    order = np.lexsort((-values, groups))
    rank = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
    return order[rank < most]


def _alike(counts: Ints) -> list[Ints]:
    """Columns with elements, in runs of about equal counts whose systems have about `CELLS` elements."""
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    run = np.cumsum(counts[order] ** 2) // CELLS
    return np.split(order, np.flatnonzero(np.diff(run)) + 1) if len(order) else []


def _solve(gram: csr_array, rows: Ints, values: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Small systems G[rows, rows] b = values, (C, width) each; places that are not `inside` do not count."""
    width = rows.shape[1]
    first, second = np.tril_indices(width)
    below = gram[rows[:, first].ravel(), rows[:, second].ravel()]
    systems = np.zeros((len(rows), width, width), np.float32)
    systems[:, first, second] = np.asarray(below).reshape(len(rows), -1)
    systems *= inside[:, :, None] & inside[:, None]
    systems[:, range(width), range(width)] += ~inside
    factors = torch.linalg.cholesky(torch.from_numpy(systems))  # reads the lower triangles
    found: Floats = torch.cholesky_solve(torch.from_numpy(values * inside)[:, :, None], factors)[
        :, :, 0
    ].numpy()
    return found


def padded(weights: csr_array, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The greatest weights of each row: column + 1, int64 (N, most), 0 for none, and float32 (N, most)."""
    rows, columns, values = _entries(weights)
    first = _first(rows, values, most)
    rows, columns, values = rows[first], columns[first], values[first]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    ids = torch.zeros(weights.shape[0], most, dtype=torch.int64)
    found = torch.zeros(weights.shape[0], most)
    where = torch.from_numpy(rows), torch.from_numpy(rank)
    ids[where] = torch.from_numpy(columns + 1)
    found[where] = torch.from_numpy(values)
    return ids, found
