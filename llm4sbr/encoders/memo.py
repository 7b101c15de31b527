"""An in-memory cache around an encoder: each distinct line of text is encoded once per run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llm4sbr import registry
from llm4sbr.protocols import Encoder


def encoding(name: str, options: dict[str, Any]) -> Callable[[list[str]], Tensor]:
    """Create an installed encoder's `encode`, in the worker process that will use it."""
    encode: Callable[[list[str]], Tensor] = registry.create("encoders", name, **options).encode
    return encode


def lines_of(texts: Iterable[str]) -> list[str]:
    """The distinct lines of all texts, sorted."""
    return sorted({line for text in texts for line in text.split("\n")})


def averaged(texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], dim: int) -> Tensor:
    """Vectors float32 (len(texts), E) of texts, computed from the vectors of their lines.

    A text of several lines lists several items. Its vector has the direction of the mean of its lines'
    vectors and their mean length. So encoding answers that list items costs no more than encoding the items.

    Args:
        texts: one or more lines each.
        encode: lines -> float32 (len(lines), E).
        dim: E.
    """
    parts = [text.split("\n") for text in texts]
    lines = [line for part in parts for line in part]
    vectors = encode(lines) if lines else torch.zeros(0, dim)
    if len(lines) == len(texts):
        return vectors
    count = torch.tensor([len(part) for part in parts])
    whole = torch.arange(len(texts)).repeat_interleave(count)
    sums = torch.zeros(len(texts), dim).index_add_(0, whole, vectors)
    lengths = torch.zeros(len(texts)).index_add_(0, whole, vectors.norm(dim=1))
    # scale the sum to the lines' mean length; a single line is left unchanged
    scale = torch.where(count > 1, lengths / count / sums.norm(dim=1).clamp_min(1e-12), 1.0)
    return sums * scale.unsqueeze(1)


class Memo:
    """An encoder that encodes each distinct line of text only once, see `averaged`.

    Args:
        encoder: the wrapped encoder.
        advance: called with the number of lines encoded.
        block: number of lines per call of `encoder`.
        limit: maximum size of the cache in bytes; further lines are encoded each time they occur.
        work: encodes blocks of lines, in order; by default `encoder` does so in this process.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        advance: Callable[[int], None] = lambda n: None,
        block: int = 256,
        limit: int = 2**31,
        work: Callable[[Iterable[list[str]]], Iterator[Tensor]] | None = None,
    ) -> None:
        self.work = work or partial(map, encoder.encode)
        self.fingerprint = encoder.fingerprint
        self.dim = encoder.dim
        self.advance = advance
        self.block = block
        self.room = limit // (4 * encoder.dim)
        self._row: dict[str, int] = {}
        self._vectors = torch.zeros(0, encoder.dim)
        """float32, the known lines' vectors, with room for more."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """float32 (len(texts), E); texts of one line exactly as the wrapped encoder encodes them."""
        return averaged(texts, self._lines, self.dim)

    def learn(self, lines: Sequence[str], vectors: Tensor) -> None:
        """Add vectors, float32 (len(lines), E), of distinct lines that were encoded before."""
        self.advance(len(lines))
        self._remember(lines, vectors)

    def _lines(self, lines: Sequence[str]) -> Tensor:
        # longest first: blocks of similar length need little padding, and progress speeds up, not slows down
        missing = sorted({line for line in lines if line not in self._row}, key=lambda t: (-len(t), t))
        parts = [missing[start : start + self.block] for start in range(0, len(missing), self.block)]
        fresh = []
        for part, vectors in zip(parts, self.work(parts), strict=True):
            fresh.append(vectors)
            self.advance(len(part))
        if missing and not self._remember(missing, torch.cat(fresh)):
            known = len(self._row)
            row = self._row | {line: known + place for place, line in enumerate(missing)}
            return torch.cat([self._vectors[:known], *fresh])[[row[line] for line in lines]]
        return self._vectors[[self._row[line] for line in lines]]

    def _remember(self, lines: Sequence[str], vectors: Tensor) -> bool:
        """Keep the vectors of new distinct lines, if there is room for all of them."""
        known, whole = len(self._row), len(self._row) + len(lines)
        if whole > self.room:
            return False
        if whole > len(self._vectors):
            grown = torch.empty(max(whole, min(2 * known, self.room)), self.dim)
            grown[:known] = self._vectors[:known]
            self._vectors = grown
        self._vectors[known:whole] = vectors
        self._row |= {line: known + place for place, line in enumerate(lines)}
        return True
