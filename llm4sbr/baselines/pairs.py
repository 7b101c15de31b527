"""Sums over pairs of items in sessions, by distance, from which linear models are computed.

A session s_1 .. s_L is cut after each of its clicks t < L: what came before is the source, what follows is
the target, each weighted by its distance to the cut (Choi et al., WWW 2021, Eq. 9 and 10), rho = exp(-1 /
delta):

    S[t, i] = sum over p <= t with s_p = i of rho^(t - p)
    T[t, j] = sum over q > t  with s_q = j of rho^(q - t - 1)

S and T are never built: a pair of clicks p < q with g = q - p is cut g times between them, with weights whose
product is rho^(g - 1) each time, and both come before the cuts after q, of which there are n = L - q:

    S'T[i, j] = sum over p < q of g rho^(g - 1)
    S'S[i, j] = sum over p, q of rho^g (1 - rho^2n) / (1 - rho^2),   n by the later of the two
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from llm4sbr.protocols import Sessions

FAINT = 1e-4
"""Pairs of clicks whose weight is below this are left out."""


class PairSums(NamedTuple):
    """Sums over training sessions, sparse float32 (N, N) each; rows and columns by catalogue id - 1."""

    together: csr_array
    """X'X: sessions that hold both items; on the diagonal, those that hold the item."""
    sources: csr_array
    """S'S."""
    onward: csr_array
    """S'T, from the earlier item to the later one."""

    @classmethod
    def of(cls, sessions: Sessions, num_items: int, *, decay: float) -> PairSums:
        """Sum over all sessions; `decay` is delta."""
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
    """Pairs of an earlier click and a later one, float32 (N, N); one that is g apart has `weights[g - 1]`."""
    items, lengths = sessions.items.numpy() - 1, sessions.offsets.diff().numpy()
    behind = np.repeat(sessions.offsets[1:].numpy(), lengths) - 1 - np.arange(len(items))
    found = csr_array((num_items, num_items), dtype=np.float32)
    for gap, weight in enumerate(weights, 1):
        first = np.flatnonzero(behind >= gap)
        found = found + _sparse(np.full(len(first), weight), items[first], items[first + gap], num_items)
    return found


def together(sessions: Sessions, num_items: int) -> csr_array:
    """X'X of X float32 (sessions, N), 1 where a session holds an item."""
    owner = np.repeat(np.arange(len(sessions.offsets) - 1), sessions.offsets.diff().numpy())
    pairs = np.unique(owner * num_items + sessions.items.numpy() - 1)
    owner, items = np.divmod(pairs, num_items)
    shape = (len(sessions.offsets) - 1, num_items)
    held = csr_array((np.ones(len(pairs), np.float32), (owner, items)), shape=shape)
    return csr_array(held.T @ held)


def _cuts(behind: NDArray[np.int64], decay: float) -> NDArray[np.float64]:
    """1 + rho^2 + rho^4 + ..., as many terms as there are cuts."""
    cuts: NDArray[np.float64] = np.expm1(-2 * behind / decay) / np.expm1(-2 / decay)
    return cuts


def _sparse(
    values: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64], size: int
) -> csr_array:
    return csr_array(coo_array((values.astype(np.float32), (rows, columns)), shape=(size, size)))
