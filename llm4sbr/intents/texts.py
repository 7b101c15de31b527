"""The distinct texts among answers: what is done with a text is done once, however many samples have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor

from llm4sbr.intents.reader import IntentStore

ITEMS = "items.safetensors"
"""Vectors of the items' texts, float32 `items` (N, E): in the folder of `localize`, and in that of a source
whose answers are the items' texts."""


def items_of(localize: Path, source: str) -> Path:
    """The file with the vectors that represent the items to a model with a source's intents."""
    own = localize / source / ITEMS
    return own if own.exists() else localize / ITEMS


class Texts(NamedTuple):
    """Distinct texts in the order in which they first appear, sample by sample."""

    texts: pl.Series
    """n texts."""
    of: Tensor
    """int64 (M, P): the text of each sample from each perspective."""

    @classmethod
    def distinct(cls, table: pl.DataFrame, names: Sequence[str]) -> Texts:
        """Those of a table with a column of texts per perspective."""
        flat = table.select(pl.concat_list(list(names)).alias("text"))["text"].explode()
        texts = flat.unique(maintain_order=True)
        found = flat.to_frame().join(_numbered(texts), on="text", how="left", maintain_order="left")
        return cls(texts, _int64(found["number"]).reshape(len(table), len(names)))

    @classmethod
    def one_each(cls, table: pl.DataFrame, names: Sequence[str]) -> Texts:
        """A text for every sample and perspective, equal or not, where a text alone does not decide."""
        flat = table.select(pl.concat_list(list(names)).alias("text"))["text"].explode()
        return cls(flat, torch.arange(len(flat)).reshape(len(table), len(names)))

    def among(self, others: pl.Series) -> Tensor:
        """The position of each text among other distinct texts, int64 (n,); -1 if it is not among them."""
        found = (
            self.texts.alias("text")
            .to_frame()
            .join(_numbered(others), on="text", how="left", maintain_order="left")
        )
        return _int64(found["number"].fill_null(-1))

    def counts(self) -> Tensor:
        """How many samples have each text from each perspective, int64 (P, n)."""
        return torch.stack([torch.bincount(column, minlength=len(self.texts)) for column in self.of.T])


class Meanings(NamedTuple):
    """What n texts mean."""

    best: Tensor
    """int64 (n,), the item that each is tied to most, or with f = 0 is most like; 0 for none."""
    cosine: Tensor
    """float (n,), its cosine with that item, 0 for none."""
    kind: Tensor
    """int64 (n,), how it names items, see `evaluation.answer_quality`."""


class Located(NamedTuple):
    """The texts of a source, and what they were localized to."""

    texts: pl.Series
    """n texts."""
    folder: Path
    """The source's intents."""
    rows: Tensor
    """int32 (n,), the number of each text's intent there."""
    meanings: Meanings

    def completed(self, parts: Sequence[Tensor], new: Tensor, there: Tensor) -> list[Tensor]:
        """Vectors, items, weights and meanings of m texts: `parts` at `new`, elsewhere those at `there`."""
        known = (there >= 0).nonzero().squeeze(1)
        at = there[known]
        stored = IntentStore.open(self.folder).stored(self.rows[at].long())
        own = [*stored, *(field[at] for field in self.meanings)]
        whole = []
        for some, others in zip(parts, own, strict=True):
            filled = some.new_zeros(len(there), *some.shape[1:])
            filled[new], filled[known] = some, others.to(some.dtype)
            whole.append(filled)
        return whole


def _numbered(texts: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({"text": texts}).with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))


def _int64(numbers: pl.Series) -> Tensor:
    return torch.from_numpy(numbers.to_numpy().astype("int64"))
