"""Two counts of what stands together in sessions, for `fusion.counted`: near each other, and beyond chance.

With p(i, n) the places of item i in session n, |n| its clicks, n_i the sessions that hold i and c_ij those
that hold i and j:

    near(i, j) = sum over n of |n|^(-1/2) sum over p(i, n), p(j, n) of exp(-|p(i, n) - p(j, n)| / 2)
    lift(i, j) = c_ij / (sqrt(n_i) n_j)                                                     i != j

`near` is STAN (Garg et al. 2019) without choosing neighbours: every session votes, which makes it a matrix.
`lift` divides by n_j where a cosine divides by its root, so that a rare item beside i counts more.
"""

from __future__ import annotations

from math import exp

import numpy as np
from scipy.sparse import coo_array, csr_array

from llm4sbr.baselines.item_to_item import Entries
from llm4sbr.baselines.pairs import together
from llm4sbr.protocols import Sessions

GAPS = 11
"""Clicks further apart than this are not near: exp(-11 / 2) is 0.4%."""


def near(sessions: Sessions, num_items: int) -> csr_array:
    """Float32 (N, N), by catalogue id - 1; the diagonal has what repeats."""
    items, lengths = sessions.items.numpy() - 1, sessions.offsets.diff().numpy()
    behind = np.repeat(sessions.offsets[1:].numpy(), lengths) - 1 - np.arange(len(items))
    scale = np.repeat(lengths.clip(min=1) ** -0.5, lengths).astype(np.float32)
    found = csr_array((num_items, num_items), dtype=np.float32)
    for gap in range(1, GAPS + 1):
        first = np.flatnonzero(behind >= gap)
        pairs = (scale[first] * np.float32(exp(-gap / 2)), (items[first], items[first + gap]))
        found = found + csr_array(coo_array(pairs, shape=(num_items, num_items)))
    return csr_array(found + found.T)


def lift(sessions: Sessions, num_items: int) -> csr_array:
    """Float32 (N, N), by catalogue id - 1, nothing on the diagonal."""
    found = Entries.of(together(sessions, num_items))
    own = found.rows == found.columns
    holding = np.ones(num_items, np.float32)
    holding[found.rows[own]] = found.values[own]
    found = found.where(~own)
    values = found.values / (np.sqrt(holding[found.rows]) * holding[found.columns])
    return found._replace(values=values.astype(np.float32)).matrix(num_items)
