"""A run's model whose catalogue has grown since its training: `grown` for PyTorch instead of a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.data.prepared import Prepared
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.added import ADDED, Added
from llm4sbr.serving.attributes import Attributes
from llm4sbr.serving.grown import extended, read_clicks

FOLDER = "catalogue"
"""Folder in a run whose `added.safetensors` has its new items."""


class Newcomers(NamedTuple):
    """What was added to a model's catalogue, behind its own N items, and what was taken out."""

    added: Added
    catalogue: Catalogue
    """Of N + n items."""
    attributes: Attributes
    own: int
    """N."""
    gone: Tensor
    """int64, places of the model's items that were taken out."""
    digest: str
    """Of the file."""

    @classmethod
    def of(cls, run: Path, fingerprint: str, prepared: Prepared) -> Newcomers | None:
        """A run's new items; None if there are none for the model of this fingerprint.

        Raises:
            StoreError: their file is damaged.
        """
        path, own = run / FOLDER / ADDED, prepared.catalogue
        added = Added.open(path) if path.exists() else None
        if added is None or added.fingerprint != fingerprint:
            return None
        catalogue = Catalogue([*own.keys, *added.keys], [*own.titles, *added.titles])
        attributes = extended(attributes_of(prepared), added.attributes, own.size, len(added.keys))
        places = {key: place for place, key in enumerate(own.keys)} if added.removed else {}
        gone = torch.tensor([places[key] for key in added.removed if key in places], dtype=torch.int64)
        return cls(added, catalogue, attributes, own.size, gone, store.file_sha256(path))

    def read(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The clicks that the model knows, int64 and bool (B, T), see `grown.read_clicks`."""
        read, kept = read_clicks(items.numpy(), mask.numpy(), self.own, self.added.read_as)
        return torch.from_numpy(read), torch.from_numpy(kept)

    def known(self, ids: list[int]) -> list[int]:
        """One session's clicks that the model reads."""
        clicks = torch.tensor([ids])
        read, kept = self.read(clicks, clicks > 0)
        return cast(list[int], read[kept].tolist())

    def scores(
        self, model: LLM4SBR, items: Tensor, mask: Tensor, intents: Tensor | None, *, predict: bool
    ) -> Tensor:
        """Scores float (B, N + n) by clicks on known items; arguments as for the model."""
        output = model.represent(items, mask, intents, predict=predict)
        scores = output.scores.index_fill(1, self.gone, -torch.inf)
        if not self.added.keys:
            return scores
        query = torch.cat(cast(Any, model.fuser).queries(output.fused, output.intents), 1)
        if query.shape[1] != self.added.rows.shape[1]:  # rows of a model without intents
            query = torch.cat([cast(Tensor, output.fused), torch.ones_like(query[:, :1])], 1)
        new = query @ torch.from_numpy(self.added.rows).T + self.added.prior
        return torch.cat([scores, new], 1)


def attributes_of(prepared: Prepared) -> Attributes:
    """The attributes of a run's items, and their clicks in training."""
    size = prepared.catalogue.size
    clicks = np.bincount(prepared.train.items.numpy(), minlength=size + 1)[1:]
    return Attributes.of(prepared.catalogue.attributes, clicks)
