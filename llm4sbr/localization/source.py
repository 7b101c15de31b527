"""Localizes one source of answers, block by block, and sums up what its answers turned out to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from llm4sbr import stamps, store
from llm4sbr.data.batches import collate
from llm4sbr.errors import StoreError
from llm4sbr.evaluation import answer_quality
from llm4sbr.intents import IntentStore, IntentWriter
from llm4sbr.localization.space import Space, fit, needs_sessions
from llm4sbr.localizers import top

BLOCK = 16_384
"""Samples localized per block."""

ABOUT = "about.json"
"""Summary in a source's folder, which becomes part of `localize.json`."""


def localize_source(folder: Path, table: pl.DataFrame, names: Sequence[str], space: Space) -> None:
    """Write the intents of a source's answers.

    Args:
        folder: of the source.
        table: its answers, see `answers_of`.
        names: of the perspectives.
        space: what all sources share.

    Raises:
        StoreError: an answer's sample is not in the data.
    """
    keys = table["key"].to_torch()
    index = torch.searchsorted(space.samples.key, keys).clamp_max(len(space.samples.key) - 1)
    if not torch.equal(space.samples.key[index], keys):
        raise StoreError(
            f"{folder.name}: answers for sessions that prepare does not have; run infer again with --force"
        )
    fit(space, table, names)
    writer = IntentWriter(folder, names, about={"source": folder.name, **space.about})
    sums = _localize_block(writer, table[:0], names, space, index[:0, None])  # sets E and F without any row
    for start in range(0, len(table), BLOCK):
        block = slice(start, start + BLOCK)
        clicked = collate(space.sessions, space.samples, index[block]).items
        sums += _localize_block(writer, table[block], names, space, clicked)
    writer.close(_statistics(table, names, space, sums))


def finish(folder: Path, space: Space) -> None:
    """Mark a source as finished, and save its summary in its folder, in case it is reused later."""
    intents = IntentStore.open(folder)
    alone = answer_quality.by_intent_alone(intents, space.prepared, space.items)
    store.write_json(folder / ABOUT, intents.manifest["statistics"] | {"by_intent_alone": alone})
    stamps.finish_part(folder)


def _localize_block(
    writer: IntentWriter, table: pl.DataFrame, names: Sequence[str], space: Space, clicked: Tensor
) -> Tensor:
    """Write the intents of m samples.

    Returns:
        float64 (P, 3): answers tied to an item, or with f = 0 like one, sum of their cosines with the best
        one, and how many of these best items the session (`clicked`, int64 (m, T)) already has.
    """
    texts = [text for name in names for text in table[name]]
    own = {"sessions": clicked.repeat(len(names), 1)} if needs_sessions(space) else {}
    found = space.localizer.localize(texts, space.catalogue, space.encoder, **own)
    # reshape P answers of m samples from (P * m, .) to (m, P, .)
    items, weights, embeddings = (
        part.reshape(len(names), len(table), part.shape[1]).transpose(0, 1) for part in found
    )
    writer.add(table["key"].to_torch(), embeddings, items, weights)
    vectors = space.encoder.encode(texts)
    best = _closest(texts, vectors, space) if not found.items.shape[1] else found.items[:, 0]
    tied = best > 0
    cosine = cosine_similarity(vectors, space.items[(best - 1).clamp_min(0)]) * tied
    again = (best.unsqueeze(1) == clicked.repeat(len(names), 1)).any(1) & tied
    sums = torch.stack([tied, cosine, again], 1).double()
    totals: Tensor = sums.reshape(len(names), len(table), 3).sum(1)
    return totals


def _closest(texts: Sequence[str], vectors: Tensor, space: Space) -> Tensor:
    """Catalogue ids int64 (m,) of the items most similar to answers (for f = 0); 0 for an empty answer."""
    cosine, row = top(vectors, space.items, 1)
    given = torch.tensor([bool(text.strip()) for text in texts], dtype=torch.bool)
    return (row[:, 0] + 1) * (given & cosine[:, 0].isfinite())


def _statistics(table: pl.DataFrame, names: Sequence[str], space: Space, sums: Tensor) -> dict[str, Any]:
    """Quality figures of one source's answers; shares are of the answers that are not empty."""
    found: dict[str, Any] = {
        "samples": len(table),
        "same_from_all_perspectives": answer_quality.identical([table[name] for name in names]),
        "perspectives": {},
    }
    catalogue = space.prepared.catalogue
    for name, (tied, cosine, again) in zip(names, sums.tolist(), strict=True):
        given = table[name].filter(table[name] != "")
        found["perspectives"][name] = {
            "empty": len(table) - len(given),
            "distinct": given.n_unique(),
            **answer_quality.naming(given, catalogue, space.encoder),
            "grounding": round(cosine / tied, 4) if tied else None,
            "repeats_session": round(again / tied, 4) if tied else None,
        }
    return found
