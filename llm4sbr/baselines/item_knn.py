"""Item-KNN: items that share sessions with the last one (Hidasi et al. 2016, section 4).

With c_ij the number of training sessions that hold both i and j, n_i those that hold i:

    similarity(i, j) = c_ij / sqrt((n_i + r) (n_j + r)),   i != j

the cosine of the items' session vectors, with a regularisation r against chance meetings of rare items.
Items are scored by their similarity to the session's last item.

As in the authors' released code r = 20 and the 100 most similar items of each item are kept. Unlike there a
session counts once per pair however often it repeats an item, as the paper's cosine has it, and all items
tied with the 100th are kept, so that the result depends on no order.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm4sbr.baselines.incidence import Incidence, Ints, Lists, chunks
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions

MOST_CELLS = 2**22
"""Similarities computed at once."""


class ItemKNN:
    """Scores items by their cosine similarity to the last item of the session.

    Args:
        num_items: N.
        regularisation: r.
        neighbours: most similar items kept per item.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, num_items: int, *, regularisation: float = 20.0, neighbours: int = 100) -> None:
        if regularisation < 0 or neighbours < 1:
            raise ConfigError(
                f"item-knn: regularisation = {regularisation:g} must not be negative and "
                f"neighbours = {neighbours} must be 1 or more"
            )
        self.num_items = num_items
        self.regularisation = regularisation
        self.neighbours = neighbours
        self.similar = Lists(np.zeros(0, np.int64), np.zeros(num_items + 1, np.int64))
        self.similarity = np.zeros(0, np.float32)

    def fit(self, sessions: Sessions) -> None:
        """Find each item's most similar items."""
        index = Incidence.of(sessions, self.num_items)
        scale = 1 / np.sqrt(index.sessions.lengths + self.regularisation).clip(min=1e-9)
        found = [
            self._most_similar(_together(index, rows, self.num_items) * scale[rows, None] * scale)
            for rows in self._parts(index)
        ]
        lengths, columns, values = (np.concatenate(part) for part in zip(*found, strict=True))
        self.similar = Lists(columns, np.append(0, np.cumsum(lengths)))
        self.similarity = values

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """Similarity to the last item, float32 (B, N), 0 for the item itself."""
        end = (mask.sum(1, keepdim=True) - 1).clamp(min=0)
        last = (items.gather(1, end) - 1).clamp(min=0).squeeze(1).numpy()
        where, owner = self.similar.positions(last)
        scores = np.zeros((len(last), self.num_items), np.float32)
        scores[owner, self.similar.values[where]] = self.similarity[where]
        return torch.from_numpy(scores)

    def _parts(self, index: Incidence) -> list[Ints]:
        """Items in runs that bound both the pairs expanded and the similarities held."""
        sessions, item = index.sessions.take(np.arange(self.num_items))
        pairs = np.bincount(item, index.items.lengths[sessions], minlength=self.num_items).astype(np.int64)
        rows = max(1, MOST_CELLS // self.num_items)
        return [part[at : at + rows] for part in chunks(pairs) for at in range(0, len(part), rows)]

    def _most_similar(self, similarity: NDArray[np.float64]) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """How many items each row keeps, which, and how similar they are."""
        keep = similarity > 0
        if self.neighbours < self.num_items:
            least = np.partition(similarity, -self.neighbours, axis=1)[:, -self.neighbours]
            keep &= similarity >= least[:, None]
        return keep.sum(1), np.nonzero(keep)[1], similarity[keep].astype(np.float32)


def _together(index: Incidence, rows: Ints, num_items: int) -> Ints:
    """c_ij of the items `rows` with all items, int64 (rows, N); 0 for an item with itself."""
    sessions, row = index.sessions.take(rows)
    items, visit = index.items.take(sessions)
    counts = np.bincount(row[visit] * num_items + items, minlength=len(rows) * num_items)
    counts = counts.reshape(len(rows), num_items)
    counts[np.arange(len(rows)), rows] = 0
    return counts
