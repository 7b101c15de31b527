"""Base class of the item-to-item models, which score by weights from each clicked item to other items.

The weights are a sparse matrix (N, N): row i has what a click on item i adds to the scores.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Entries(NamedTuple):
    """The non-zero elements of a sparse matrix: `values[k]` is at row `rows[k]`, column `columns[k]`."""

    rows: Ints
    columns: Ints
    values: Floats

    @classmethod
    def of(cls, matrix: csr_array | csc_array) -> Entries:
        """The stored elements of a matrix."""
        found = matrix.tocoo()
        return cls(found.row.astype(np.int64), found.col.astype(np.int64), found.data)

    def where(self, keep: NDArray[np.bool_] | Ints) -> Entries:
        """The elements that a mask or an array of positions selects."""
        return Entries(self.rows[keep], self.columns[keep], self.values[keep])

    def matrix(self, size: int) -> csr_array:
        """The elements as a matrix, float32 (size, size)."""
        return csr_array((self.values, (self.rows, self.columns)), shape=(size, size))


class ItemToItem:
    """Scores items by the weights of the clicked items; subclasses compute `weights` in `fit`.

    Item j gets from a session s_1 .. s_L the score

        sum over p of exp(-(L - p) / decay) weights[s_p, j]

    and with decay = 0 the score weights[s_L, j].

    Args:
        num_items: N.
        decay: number of clicks after which a click's weight has fallen to 1/e; 0: only the last click counts.
    """

    def __init__(self, num_items: int, *, decay: float) -> None:
        self.num_items, self.decay = num_items, decay
        self.weights = csr_array((num_items, num_items), dtype=np.float32)

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """The sum over clicks of the items' weights, with decay, float32 (B, N)."""
        clicks = self.click_weights(mask).numpy()
        row, step = np.nonzero(clicks)
        shape = (len(items), self.num_items)
        sessions = csr_array((clicks[row, step], (row, items.numpy()[row, step] - 1)), shape=shape)
        return torch.from_numpy((sessions @ self.weights).toarray())

    def click_weights(self, mask: Tensor) -> Tensor:
        """The factor exp(-(L - p) / decay) of each click, float32 (B, T), 0 at padding.

        Args:
            mask: bool (B, T), true at clicks.
        """
        age = mask.flip(1).cumsum(1).flip(1) - 1
        weights = (-age / self.decay).exp() if self.decay else (age == 0).float()
        return weights * mask

    def neighbours(self, m: int) -> tuple[Tensor, Tensor]:
        """The m largest weights of each item.

        Returns:
            Catalogue ids int64 (N, m), largest weight first, 0 if an item has fewer than m, and the weights
            float32 (N, m).
        """
        return padded(self.weights, m)


def strongest(weights: Floats | csr_array, most: int) -> csr_array:
    """Keep the `most` largest positive weights of each row; of a sparse matrix, ties by lower column."""
    if not isinstance(weights, csr_array):
        return _strongest_of_all(weights, min(most, weights.shape[1]))
    found = Entries.of(weights)
    found = found.where(found.values > 0)
    kept = found.where(first(found.rows, found.values, most))
    return csr_array((kept.values, (kept.rows, kept.columns)), shape=weights.shape)


def padded(weights: csr_array, most: int) -> tuple[Tensor, Tensor]:
    """The largest weights of each row as dense tensors, padded with 0.

    Returns:
        Catalogue ids (column + 1), int64 (N, most), and the weights, float32 (N, most), largest first.
    """
    found = Entries.of(weights)
    found = found.where(first(found.rows, found.values, most))
    rank = np.arange(len(found.rows)) - np.searchsorted(found.rows, found.rows)
    ids = torch.zeros(weights.shape[0], most, dtype=torch.int64)
    values = torch.zeros(weights.shape[0], most)
    where = torch.from_numpy(found.rows), torch.from_numpy(rank)
    ids[where] = torch.from_numpy(found.columns + 1)
    values[where] = torch.from_numpy(found.values)
    return ids, values


def first(groups: Ints, values: NDArray[np.floating], most: int) -> Ints:
    """Positions of the `most` largest values of each group, group after group."""
    order = np.lexsort((-values, groups))
    rank = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
    return order[rank < most]


def _strongest_of_all(weights: Floats, most: int) -> csr_array:
    columns = np.argpartition(-weights, most - 1, axis=1)[:, :most]
    values = np.take_along_axis(weights, columns, 1)
    rows, rank = np.nonzero(values > 0)
    found = values[rows, rank], (rows, columns[rows, rank])
    return csr_array(found, shape=weights.shape)
