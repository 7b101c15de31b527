"""Ridge regression of every item on all others, from sums over sessions: dense, or on a few items each.

Column j of B minimises a quadratic form with the gram matrix G (N, N) and the products R (N, N) with targets:

    B_j = argmin b'Gb - 2 b'R_j     =>     B = G^-1 R
    with b_j = 0:                          B_j - P_j B_jj / P_jj,   P = G^-1

The dense solution takes about 3 N^3 operations and 12 N^2 bytes. If that is too much, b is restricted to the
`support` items with the largest individual gain, R_ij^2 / G_ii, and N small systems are solved in batches.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from llm4sbr.baselines.item_to_item import Entries, Floats, Ints, first

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


def _support(gram: csr_array, targets: csr_array, *, own: bool, most: int) -> Entries:
    """The elements that B may have, with R_ij, by column."""
    found = Entries.of(csc_array(targets))
    found = found.where((found.values > 0) & (own | (found.rows != found.columns)))
    gain = np.where(found.rows == found.columns, np.inf, found.values / np.sqrt(gram.diagonal()[found.rows]))
    return found.where(first(found.columns, gain, most))


def _alike(counts: Ints) -> list[Ints]:
    """Columns with elements, in runs of about equal counts whose systems have about `CELLS` elements."""
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    run = np.cumsum(counts[order] ** 2) // CELLS
    return np.split(order, np.flatnonzero(np.diff(run)) + 1) if len(order) else []


def _solve(gram: csr_array, rows: Ints, values: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Small systems G[rows, rows] b = values, (C, width) each; places that are not `inside` do not count."""
    width = rows.shape[1]
    above, below = np.tril_indices(width)
    values_of = gram[rows[:, above].ravel(), rows[:, below].ravel()]
    systems = np.zeros((len(rows), width, width), np.float32)
    systems[:, above, below] = np.asarray(values_of).reshape(len(rows), -1)
    systems *= inside[:, :, None] & inside[:, None]
    systems[:, range(width), range(width)] += ~inside
    factors = torch.linalg.cholesky(torch.from_numpy(systems))  # reads the lower triangles
    found: Floats = torch.cholesky_solve(torch.from_numpy(values * inside)[:, :, None], factors)[
        :, :, 0
    ].numpy()
    return found
