"""Ridge regression of each item on all items, or on a few of them, from sums over sessions.

With the Gram matrix G (N, N), which includes the penalty, and the products R (N, N) of inputs and targets,
column j of B is

    B_j = argmin b'Gb - 2 b'R_j     =>     B = G^-1 R
    under the constraint b_j = 0:          B_j - P_j B_jj / P_jj,   P = G^-1

The dense solution takes about 3 N^3 operations and 12 N^2 bytes. For a catalogue where that is too much, the
sparse solution allows only `support` non-zero elements in each column: those that would reduce the error most
on their own, by R_ij^2 / G_ii. That leaves N small linear systems, which are solved in batches.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from llm4sbr.baselines.item_to_item import Entries, Floats, Ints, first

CELLS = 2**22
"""Maximum number of matrix elements in one batch of small systems, to limit memory."""


def dense(gram: csr_array, targets: csr_array, *, own: bool) -> Floats:
    """The exact solution, by Cholesky factorization.

    Args:
        gram: G.
        targets: R.
        own: whether an item may contribute to its own score; otherwise B_jj = 0.

    Returns:
        B, float32 (N, N).
    """
    factor = torch.linalg.cholesky(torch.from_numpy(gram.toarray()))
    inverse = torch.cholesky_inverse(factor)
    weights = inverse @ torch.from_numpy(targets.toarray())
    if not own:
        weights -= inverse * (weights.diagonal() / inverse.diagonal())
        weights.fill_diagonal_(0)
    found: Floats = weights.numpy()
    return found


def sparse(gram: csr_array, targets: csr_array, *, own: bool, support: int) -> csr_array:
    """The solution with at most `support` non-zero elements per column; arguments as for `dense`.

    Returns:
        B, sparse float32 (N, N).
    """
    rows, columns, values = _support(gram, targets, own=own, most=support)
    counts = np.bincount(columns, minlength=gram.shape[0])
    starts = np.cumsum(counts) - counts
    weights = np.zeros(len(rows), np.float32)
    gram.sort_indices()  # makes access to single elements a binary search
    for part in _alike(counts):
        width = np.arange(counts[part].max())
        inside = width < counts[part][:, None]
        where = np.where(inside, starts[part][:, None] + width, 0)
        found = _solve(gram, rows[where], values[where], inside)
        weights[where[inside]] = found[inside]
    return csr_array((weights, (rows, columns)), shape=gram.shape)


def _support(gram: csr_array, targets: csr_array, *, own: bool, most: int) -> Entries:
    """Choose the elements of B that may be non-zero; `values` are R_ij, ordered by column."""
    found = Entries.of(csc_array(targets))
    found = found.where((found.values > 0) & (own | (found.rows != found.columns)))
    gain = np.where(found.rows == found.columns, np.inf, found.values / np.sqrt(gram.diagonal()[found.rows]))
    return found.where(first(found.columns, gain, most))


def _alike(counts: Ints) -> list[Ints]:
    """Group the columns into batches of about `CELLS` matrix elements.

    Columns with a similar number of elements are together, so that little is padded; empty columns are left
    out.
    """
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    run = np.cumsum(counts[order] ** 2) // CELLS
    return np.split(order, np.flatnonzero(np.diff(run)) + 1) if len(order) else []


def _solve(gram: csr_array, rows: Ints, values: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Solve the systems G[rows, rows] b = values, all of shape (C, width); `inside` is false at padding."""
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
