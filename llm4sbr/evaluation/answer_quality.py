"""Quality of the answers themselves, without a trained model: do they name real items, and the right ones?"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr.data.batches import batches
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation import metrics
from llm4sbr.intents import IntentStore
from llm4sbr.localizers.title import matches
from llm4sbr.protocols import Catalogue, Encoder, Samples

K = 20
"""List length K of the metrics by intent alone."""

MOST = 5_000
"""Maximum number of validation samples that are ranked."""

NEAR = 0.9
"""Share of common characters from which an answer nearly matches a title, see `localizers.title`."""


def naming(answers: pl.Series, catalogue: Catalogue, encoder: Encoder) -> dict[str, float | None]:
    """Shares of the answers that name an item of the catalogue exactly, nearly, or not at all.

    Exactly: by its title, or by title and attributes as in `Item.text`, ignoring case. An answer of several
    lines counts as its worst line. The three shares sum to 1; all are None if there are no answers.
    """
    if not len(answers):
        return dict.fromkeys(("exact_title", "near_title", "no_title"))
    exact = {text.casefold() for text in (*catalogue.titles, *catalogue.texts())}
    counts = answers.value_counts(name="times")
    texts, times = counts[answers.name].to_list(), counts["times"].to_list()
    lines = sorted({line for text in texts for line in text.split("\n")} - {""})
    unsure = [line for line in lines if line.casefold() not in exact]
    near = matches(unsure, catalogue, encoder, similarity=NEAR)
    sums = {"exact_title": 0, "near_title": 0, "no_title": 0}
    for text, count in zip(texts, times, strict=True):
        parts = [line for line in text.split("\n") if line]
        if all(line.casefold() in exact for line in parts):
            sums["exact_title"] += count
        else:
            known = all(line.casefold() in exact or line in near for line in parts)
            sums["near_title" if known else "no_title"] += count
    return {name: round(total / len(answers), 4) for name, total in sums.items()}


def by_intent_alone(store: IntentStore, prepared: Prepared, titles: Tensor) -> dict[str, dict[str, float]]:
    """Ranks of the true next item if items are ranked by their cosine with the intent and nothing else.

    Uses validation samples that have an intent, at most `MOST`; items of the prefix are excluded.

    Args:
        store: the intents of one source.
        prepared: the data.
        titles: float32 (N, E), the items' text vectors.

    Returns:
        By perspective: `samples`, `HR@20`, `MRR@20`, `median_rank`; for comparison, the same samples ranked
        by `popularity`.
    """
    samples = _validation(prepared, store)
    if not len(samples.key) or not store.dim:
        return {}
    unit = normalize(titles, dim=1)
    rows = store.rows_of(prepared.sessions, samples)
    popular = torch.bincount(prepared.train.items, minlength=len(titles) + 1)[1:].float()
    ranks: dict[str, list[Tensor]] = {name: [] for name in (*store.perspectives, "popularity")}
    size = max(1, 2**24 // len(titles))
    for batch in batches(prepared.sessions, samples, batch_size=min(size, 512)):
        intents = normalize(store.gather(rows[batch.index]), dim=2)
        for place, name in enumerate(store.perspectives):
            ranks[name].append(_ranks(intents[:, place] @ unit.T, batch.items, batch.target))
        ranks["popularity"].append(_ranks(popular.expand(len(batch.target), -1), batch.items, batch.target))
    return {name: _summary(torch.cat(parts)) for name, parts in ranks.items()}


def _validation(prepared: Prepared, store: IntentStore) -> Samples:
    samples = prepared.samples["valid"]
    known = (store.rows_of(prepared.sessions, samples) >= 0).nonzero().squeeze(1)
    if len(known) > MOST:
        chosen = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:MOST]
        known = known[chosen.sort().values]
    return Samples(*(field[known] for field in samples))


def _ranks(scores: Tensor, items: Tensor, target: Tensor) -> Tensor:
    padded = torch.cat([scores.new_zeros(len(scores), 1), scores], 1)  # column 0 takes the padding
    seen = padded.scatter(1, items, -torch.inf)[:, 1:]
    return metrics.ranks(seen, target)


def _summary(ranks: Tensor) -> dict[str, float]:
    found: Sequence[tuple[str, Tensor]] = (
        (f"HR@{K}", metrics.hit_rate(ranks, K)),
        (f"MRR@{K}", metrics.reciprocal_rank(ranks, K)),
    )
    means = {name: round(float(values.mean()), 4) for name, values in found}
    return {"samples": len(ranks), **means, "median_rank": int(ranks.median())}


def identical(tables: Sequence[pl.Series]) -> float | None:
    """Share of samples with the same answer from all perspectives; None for fewer than two perspectives."""
    if len(tables) < 2 or not len(tables[0]):
        return None
    same = sum(len(set(row)) == 1 for row in zip(*tables, strict=True))
    return round(same / len(tables[0]), 4)
