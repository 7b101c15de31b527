"""The localizer `nearest` with an approximate search, and its recall against the exact one."""

from __future__ import annotations

from math import sqrt
from typing import Any, Literal

import faiss
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr.errors import ConfigError
from llm4sbr.localizers.nearest import GRAIN, Nearest, top

__all__ = ["Faiss"]

SAMPLED = 500
"""Number of answers on which the recall is measured."""

SMALL = 10_000
"""Up to this number of items the search is exact: an index would not be faster."""

PER_LIST = 64
"""Items per list used to train the index; more would only take longer."""


class Faiss(Nearest):
    """Ties an answer to the f most similar items that an approximate index finds.

    Weights and embeddings are those of `nearest`, and so are ties: the cosines of the items found are
    computed exactly.

    Args:
        f: items per answer, F.
        weights: `softmax` or `cosine`, as for `nearest`.
        probes: number of lists searched; more lists find more but take longer.
        index: a faiss index factory string; by default `IVF<4 sqrt(N)>,Flat`, exact up to 10,000 items.

    Raises:
        ConfigError: an option is out of range, or faiss does not know the index.
    """

    def __init__(
        self,
        f: int = 5,
        *,
        weights: Literal["softmax", "cosine"] = "softmax",
        probes: int = 32,
        index: str | None = None,
    ) -> None:
        super().__init__(f, weights=weights)
        if probes < 1:
            raise ConfigError(f"localize.options.probes = {probes}: expected 1 or more")
        self.probes = probes
        self.factory = index
        self.facts: dict[str, Any] = {}
        """Index and recall, after the first search."""
        self._vectors = torch.zeros(0)
        self._index: Any = None
        self._rows = torch.zeros(0, dtype=torch.int64)

    def search(self, queries: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines float32 (m, F) and rows int64 (m, F) of `vectors`; -inf where fewer than F were found."""
        if not torch.equal(self._vectors, vectors):
            self._build(vectors)
        if self._index is None:
            return top(queries, vectors, self.f)
        asked = normalize(queries.float(), dim=1)
        found = torch.from_numpy(self._index.search(asked.numpy(), self.f)[1])  # (m, F), -1 for none
        missing = (found < 0) | (asked.norm(dim=1, keepdim=True) == 0)
        rows = self._rows[found.clamp_min(0)]
        cosine = (asked.unsqueeze(1) * normalize(vectors[rows].float(), dim=2)).sum(2)
        rows, cosine = rows.masked_fill(missing, 0), cosine.masked_fill(missing, -torch.inf)
        if not self.facts and len(asked):
            self._measure(queries[:SAMPLED], cosine[:SAMPLED])
        rows, order = rows.sort(dim=1)
        cosine = cosine.gather(1, order)
        best = (cosine * GRAIN).round().sort(dim=1, descending=True, stable=True).indices
        return cosine.gather(1, best), rows.gather(1, best)

    def _build(self, vectors: Tensor) -> None:
        self._vectors = vectors.clone()
        self._rows = vectors.norm(dim=1).nonzero().squeeze(1)
        count = len(self._rows)
        lists = max(1, round(4 * sqrt(count)))
        self._index = None
        if self.factory is None and count <= SMALL:
            self.facts = {"index": f"none, the search is exact up to {SMALL:,} items"}
            return
        name = self.factory or f"IVF{lists},Flat"
        unit = normalize(vectors[self._rows].float(), dim=1).numpy()
        try:
            self._index = faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"localize.options.index = {name!r}: faiss does not know it ({reason})"
            ) from None
        if not self._index.is_trained:
            self._index.train(unit[:: max(1, count // (PER_LIST * lists))])
        self._index.add(unit)
        if hasattr(self._index, "nprobe"):
            self._index.nprobe = self.probes
        self.facts = {}

    def _measure(self, queries: Tensor, cosine: Tensor) -> None:
        """Recall of the cosines (m, F) found against the exact best ones; equal cosines count as found."""
        exact = top(queries, self._vectors, self.f)[0]
        real = exact.isfinite()
        least = exact.masked_fill(~real, torch.inf).amin(1, keepdim=True)
        recall = (cosine >= least - 1 / GRAIN).sum() / real.sum().clamp_min(1)
        kind = type(faiss.downcast_index(self._index)).__name__
        self.facts = {
            "index": kind,
            f"recall@{self.f} against exact search": round(float(recall), 4),
            "measured on answers": len(queries),
        }
