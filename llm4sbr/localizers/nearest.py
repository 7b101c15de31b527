"""The localizer `nearest`: the items whose text is most similar to the answer (the paper, Eqs. 1 to 4)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Catalogue, Encoder, Localization

CELLS = 2**24
"""Number of similarities in memory at once (64 MiB); the full (M, N) matrix is never built."""
GRAIN = 2**16
"""Cosines are compared in steps of 1 / GRAIN: rounding differences, which depend on the rest of the batch,
must not decide between two items of the same title."""


class Nearest:
    """Ties an answer to the f items with the most similar text, weighted by similarity.

    Eqs. 1 to 4 of the paper (Qiao et al. 2024, v1): answer and items in one text space, cosine similarity,
    the top f, a softmax over their similarities, and the weighted sum of the items' vectors. With
    `weights = "cosine"` the sum is the second version's (v2, Eq. 5): cosine times vector, not normalised;
    the weights reported are the same cosines divided by their sum, with negative cosines counted as 0. With
    f = 0 the answer's own vector is kept, and no items.

    An empty answer or one with a zero vector gives a zero row; an item without text is never chosen. Equally
    similar items are in catalogue order.

    Args:
        f: items per answer, F.
        weights: `softmax` (v1) or `cosine` (v2).

    Raises:
        ConfigError: a negative f or unknown weights.
    """

    def __init__(self, f: int = 5, *, weights: Literal["softmax", "cosine"] = "softmax") -> None:
        if f < 0:
            raise ConfigError(f"localize.f = {f}: expected 0 or more items per answer")
        if weights not in ("softmax", "cosine"):
            raise ConfigError(f"localize.options.weights = {weights!r}: expected 'softmax' or 'cosine'")
        self.f = f
        self.weights = weights

    def localize(self, answers: Sequence[str], catalogue: Catalogue, encoder: Encoder) -> Localization:
        """Localize M answers; `catalogue.titles` are the items' texts.

        Equal answers are localized once.

        Raises:
            ConfigError: f is larger than the catalogue.
        """
        if self.f > catalogue.size:
            raise ConfigError(
                f"localize.f = {self.f}: the catalogue has only {catalogue.size} items; "
                f"set localize.f to {catalogue.size} or less"
            )
        distinct = [text for text in dict.fromkeys(answers) if text.strip()]
        row = {text: i for i, text in enumerate(distinct)}
        of = torch.tensor([row.get(text, len(distinct)) for text in answers], dtype=torch.int64)
        found = self._localize(encoder.encode(distinct), catalogue, encoder)
        # an extra zero row for the empty answers
        return Localization(*(torch.cat([part, part.new_zeros(1, part.shape[1])])[of] for part in found))

    def _localize(self, answers: Tensor, catalogue: Catalogue, encoder: Encoder) -> Localization:
        """Localize vectors (m, E) of distinct answers."""
        if self.f == 0 or len(answers) == 0:
            none = torch.zeros(len(answers), self.f)
            return Localization(none.long(), none, answers)
        vectors = encoder.encode(catalogue.titles)  # (N, E)
        similarity, index = self.search(answers, with_text(vectors, catalogue))  # (m, F)
        weights, scale = self._weigh(similarity)
        embeddings = torch.zeros_like(answers)
        for weight, at in zip((weights * scale).T, index.T, strict=True):  # avoids a large (m, F, E) tensor
            embeddings += weight.unsqueeze(1) * vectors[at]
        return Localization((index + 1).masked_fill(weights == 0, 0), weights, embeddings)

    def search(self, queries: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and rows of the f most similar `vectors` (see `top`); subclasses may search faster."""
        return top(queries, vectors, self.f)

    def _weigh(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (m, F) that sum to 1 or are all 0, and a factor (m, 1) that scales the embedding."""
        real = similarity.isfinite()
        if self.weights == "softmax":
            weights = torch.where(real, similarity, -torch.inf).softmax(1).nan_to_num(0.0)
            return weights, torch.ones(len(weights), 1)
        cosines = torch.where(real, similarity, 0.0).clamp_min(0)
        total = cosines.sum(1, keepdim=True)
        return cosines / total.clamp_min(torch.finfo(total.dtype).tiny), total


def with_text(vectors: Tensor, catalogue: Catalogue) -> Tensor:
    """The items' vectors float (N, E), zeroed for items without text, so that these are never found."""
    blank = [row for row, title in enumerate(catalogue.titles) if not title.strip()]
    return vectors.index_fill(0, torch.tensor(blank), 0) if blank else vectors


def top(queries: Tensor, vectors: Tensor, k: int, *, cells: int = CELLS) -> tuple[Tensor, Tensor]:
    """The k rows of `vectors` with the highest cosine similarity to each query (Eq. 3), by exact search.

    Works in blocks of at most about `cells` similarities.

    Args:
        queries: float (m, E).
        vectors: float (N, E), N >= k.
        k: rows per query.
        cells: similarities in memory at once.

    Returns:
        Cosines float32 (m, k), best first, and row numbers int64 (m, k). Cosines that differ by less than
        about 1 / GRAIN count as equal and are in row order. The similarity of a zero vector, on either side,
        is -inf.
    """
    width = min(len(vectors), max(k, 4 * isqrt(cells)))
    height = max(1, cells // width)
    asked = normalize(queries.float(), dim=1)
    parts = []
    for first in range(0, len(asked), height):
        query = asked[first : first + height]
        blind = query.norm(dim=1, keepdim=True) == 0
        best = query.new_zeros(len(query), 0)
        index = torch.zeros(len(query), 0, dtype=torch.int64)
        for start in range(0, len(vectors), width):
            unit = normalize(vectors[start : start + width].float(), dim=1)  # per block, to save memory
            block = query @ unit.T  # (height, width)
            block.masked_fill_(blind | ~unit.any(1), -torch.inf)
            at = (block * GRAIN).round().topk(min(k, block.shape[1]), dim=1).indices
            best, index = torch.cat([best, block.gather(1, at)], 1), torch.cat([index, at + start], 1)
            best, index = _sorted(best, index, k)
        parts.append((best, index))
    if not parts:
        return queries.new_zeros(0, k, dtype=torch.float32), torch.zeros(0, k, dtype=torch.int64)
    return torch.cat([value for value, _ in parts]), torch.cat([at for _, at in parts])


def _sorted(value: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row; equal values in the order of their index."""
    index, order = index.sort(dim=1)
    value = value.gather(1, order)
    best = (value * GRAIN).round().sort(dim=1, descending=True, stable=True).indices[:, :k]
    return value.gather(1, best), index.gather(1, best)
