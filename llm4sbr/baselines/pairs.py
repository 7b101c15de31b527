"""Counts of item pairs in sessions, weighted by distance, from which linear models are computed.

A session s_1 .. s_L is cut after each of its clicks t < L. The clicks before the cut are the source, those
after it the target, and each click is weighted by its distance to the cut (Choi et al., WWW 2021, Eq. 9 and
10), with rho = exp(-1 / delta):

    S[t, i] = sum over p <= t with s_p = i of rho^(t - p)
    T[t, j] = sum over q > t  with s_q = j of rho^(q - t - 1)

Only the products S'T and S'S are needed, so S and T are never stored. Between two clicks p < q at distance
g = q - p there are g cuts, and at each of them the product of both weights is rho^(g - 1). After q there are
n = L - q more cuts, at which both clicks belong to the source. Therefore

    S'T[i, j] = sum over p < q of g rho^(g - 1)
    S'S[i, j] = sum over p, q of rho^g (1 - rho^2n) / (1 - rho^2),   n for the later click of the two
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from llm4sbr.protocols import Sessions

FAINT = 1e-4
"""Pairs of clicks so far apart that their weight is below this are ignored."""


class PairSums(NamedTuple):
    """Sums over training sessions, sparse float32 (N, N); rows and columns are item indices."""

    together: csr_array
    """X'X: the number of sessions that contain both items; on the diagonal, that contain the item."""
    sources: csr_array
    """S'S."""
    onward: csr_array
    """S'T; the row is the earlier item, the column the later one."""

    @classmethod
    def of(cls, sessions: Sessions, num_items: int, *, decay: float) -> PairSums:
        """Compute the sums; `decay` is delta, in clicks."""
        items, lengths = sessions.items.numpy() - 1, sessions.offsets.diff().numpy()
        behind = np.repeat(sessions.offsets[1:].numpy(), lengths) - 1 - np.arange(len(items))  # n, L - q
        sources = _sparse(_cuts(behind, decay), items, items, num_items)
        weights: list[float] = []
        while (gap := len(weights) + 1) * np.exp((1 - gap) / decay) > FAINT and (behind >= gap).any():
            first = np.flatnonzero(behind >= gap)
            near = np.exp(-gap / decay) * _cuts(behind[first + gap], decay)
            earlier = _sparse(near, items[first], items[first + gap], num_items)
            sources = sources + earlier + earlier.T
            weights.append(gap * np.exp((1 - gap) / decay))
        return cls(together(sessions, num_items), csr_array(sources), onward(sessions, num_items, weights))


def onward(sessions: Sessions, num_items: int, weights: Sequence[float]) -> csr_array:
    """Sum over pairs of an earlier click (row) and a later one (column), float32 (N, N).

    Args:
        sessions: training sessions.
        num_items: N.
        weights: what a pair at distance 1, 2, ... adds; pairs further apart are ignored.
    """
    items, lengths = sessions.items.numpy() - 1, sessions.offsets.diff().numpy()
    behind = np.repeat(sessions.offsets[1:].numpy(), lengths) - 1 - np.arange(len(items))
    found = csr_array((num_items, num_items), dtype=np.float32)
    for gap, weight in enumerate(weights, 1):
        first = np.flatnonzero(behind >= gap)
        found = found + _sparse(np.full(len(first), weight), items[first], items[first + gap], num_items)
    return found


def together(sessions: Sessions, num_items: int) -> csr_array:
    """X'X, float32 (N, N), for the matrix X (sessions, N) that is 1 where a session contains an item."""
    owner = np.repeat(np.arange(len(sessions.offsets) - 1), sessions.offsets.diff().numpy())
    pairs = np.unique(owner * num_items + sessions.items.numpy() - 1)
    owner, items = np.divmod(pairs, num_items)
    shape = (len(sessions.offsets) - 1, num_items)
    held = csr_array((np.ones(len(pairs), np.float32), (owner, items)), shape=shape)
    return csr_array(held.T @ held)


def _cuts(behind: NDArray[np.int64], decay: float) -> NDArray[np.float64]:
    """1 + rho^2 + rho^4 + ... for each click, with one term per cut that follows it."""
    cuts: NDArray[np.float64] = np.expm1(-2 * behind / decay) / np.expm1(-2 / decay)
    return cuts


def _sparse(
    values: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64], size: int
) -> csr_array:
    return csr_array(coo_array((values.astype(np.float32), (rows, columns)), shape=(size, size)))
