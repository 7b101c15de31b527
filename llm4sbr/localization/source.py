"""Localizes one source of answers: every distinct text once, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from llm4sbr import stamps, store
from llm4sbr.errors import StoreError
from llm4sbr.evaluation import answer_quality
from llm4sbr.intents import IntentStore, IntentWriter
from llm4sbr.intents.texts import Located, Meanings, Texts
from llm4sbr.localization.space import Space, fit, needs_sessions, sessions_of
from llm4sbr.localizers import top

BLOCK = 16_384
"""Texts localized, and samples written, per block."""

ABOUT = "about.json"
"""Summary in a source's folder, which becomes part of `localize.json`."""


def localize_source(
    folder: Path, table: pl.DataFrame, names: Sequence[str], space: Space, before: Located | None
) -> Located | None:
    """Write the intents of one source; returns its texts, if another source may use what they mean."""
    keys = table["key"].to_torch()
    index = torch.searchsorted(space.samples.key, keys).clamp_max(len(space.samples.key) - 1)
    if not torch.equal(space.samples.key[index], keys):
        raise StoreError(
            f"{folder.name}: answers for sessions that prepare does not have; run infer again with --force"
        )
    fit(space, table, names)
    writer = IntentWriter(folder, names, about={"source": folder.name, **space.about})
    alone = not needs_sessions(space)
    texts = Texts.distinct(table, names) if alone else Texts.one_each(table, names)
    found = _localize_texts(writer, texts, space, index, before if alone else None)
    again = torch.zeros(len(names), dtype=torch.int64)
    for start in range(0, len(table), BLOCK):
        block = slice(start, start + BLOCK)
        writer.assign(keys[block], found.rows[texts.of[block]])
        clicked = sessions_of(space, index[block])
        best = found.meanings.best[texts.of[block]].unsqueeze(2)  # (m, P, 1)
        again += ((best == clicked.unsqueeze(1)) & (best > 0)).any(2).sum(0)
    writer.close(answer_quality.statistics(table, names, texts.counts(), found.meanings, again))
    return found if alone and not hasattr(space.localizer, "fit") else None


def finish(folder: Path, space: Space) -> None:
    """Mark a source as finished, and save its summary in its folder, in case it is reused later."""
    intents = IntentStore.open(folder)
    alone = answer_quality.by_intent_alone(intents, space.prepared, space.items)
    store.write_json(folder / ABOUT, intents.manifest["statistics"] | {"by_intent_alone": alone})
    stamps.finish_part(folder)


def _localize_texts(
    writer: IntentWriter, texts: Texts, space: Space, index: Tensor, before: Located | None
) -> Located:
    """Store what each text means.

    Args:
        writer: stores it.
        texts: n texts of M samples.
        space: localizer, encoder, catalogue.
        index: int64 (M,), the samples in `space.samples`, for a localizer that looks at sessions.
        before: another source's texts; what it has is not localized again.
    """
    known = texts.among(before.texts) if before else torch.full((len(texts.texts),), -1)
    rows, meanings = [], []
    for start in range(0, max(1, len(texts.texts)), BLOCK):  # once without texts: it sets E and F
        block = slice(start, start + BLOCK)
        some, there = texts.texts[block].to_list(), known[block]
        new = (there < 0).nonzero().squeeze(1)
        wanted = [some[place] for place in new.tolist()]
        own = {}
        if needs_sessions(space):
            samples = index[torch.arange(start, start + len(some)) // texts.of.shape[1]]
            own = {"sessions": sessions_of(space, samples)}
        found = space.localizer.localize(wanted, space.catalogue, space.encoder, **own)
        vectors = space.encoder.encode(wanted)
        first = _closest(wanted, vectors, space) if not found.items.shape[1] else found.items[:, 0]
        near = cosine_similarity(vectors, space.items[(first - 1).clamp_min(0)]) * (first > 0)
        kinds = answer_quality.kinds(wanted, space.prepared.catalogue, space.encoder)
        parts = [found.embeddings.half(), found.items, found.weights.half(), first, near, kinds]
        if before and len(new) < len(some):
            parts = before.completed(parts, new, there)
        rows.append(writer.store(*parts[:3]))
        meanings.append(parts[3:])
    whole = Meanings(*map(torch.cat, zip(*meanings, strict=True)))
    return Located(texts.texts, writer.folder, torch.cat(rows), whole)


def _closest(texts: Sequence[str], vectors: Tensor, space: Space) -> Tensor:
    """Catalogue ids int64 (m,) of the items most similar to answers (for f = 0); 0 for an empty answer."""
    cosine, row = top(vectors, space.items, 1)
    given = torch.tensor([bool(text.strip()) for text in texts], dtype=torch.bool)
    return (row[:, 0] + 1) * (given & cosine[:, 0].isfinite())
