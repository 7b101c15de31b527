"""What answers are worth before any model is trained on them: do they name real items, and the right ones?"""

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
"""List length of the metrics by intent alone."""

MOST = 5_000
"""Validation samples ranked, at most."""

NEAR = 0.9
"""Share of common characters from which an answer nearly names a title, see `localizers.title`."""


def naming(answers: pl.Series, catalogue: Catalogue, encoder: Encoder) -> dict[str, float | None]:
    """Shares of the answers that name an item of the catalogue exactly, nearly, or not at all.

    Exactly: by its title, or by title and attributes as `Item.text` has them, whatever the capitals.
    An answer of several lines names what all its lines name; the worst of them counts. The three shares sum
    to 1; all are None where there is no answer.
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
    """Where the true next item stands when items are ranked by their cosine with the intent and nothing else.

    Validation samples that have an intent, at most `MOST`; items of the prefix are left out.

    Args:
        store: the intents of one source.
        prepared: the data.
        titles: float32 (N, E), the items' vectors.

    Returns:
        By perspective: `samples`, `HR@20`, `MRR@20`, `median_rank`; the same samples under `popularity`.
    """
    samples = _validation(prepared, store)
    if not len(samples.key) or not store.dim:
        return {}
    unit = normalize(titles, dim=1)
    popular = torch.bincount(prepared.train.items, minlength=len(titles) + 1)[1:].float()
    ranks: dict[str, list[Tensor]] = {name: [] for name in (*store.perspectives, "popularity")}
    size = max(1, 2**24 // len(titles))
    for batch in batches(prepared.sessions, samples, batch_size=min(size, 512)):
        intents = normalize(store.gather(store.rows(samples.key[batch.index])), dim=2)
        for place, name in enumerate(store.perspectives):
            ranks[name].append(_ranks(intents[:, place] @ unit.T, batch.items, batch.target))
        ranks["popularity"].append(_ranks(popular.expand(len(batch.target), -1), batch.items, batch.target))
    return {name: _summary(torch.cat(parts)) for name, parts in ranks.items()}


def _validation(prepared: Prepared, store: IntentStore) -> Samples:
    samples = prepared.samples["valid"]
    known = (store.rows(samples.key) >= 0).nonzero().squeeze(1)
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
    """Share of the samples whose answers are the same from all perspectives, None with fewer than two."""
    if len(tables) < 2 or not len(tables[0]):
        return None
    same = sum(len(set(row)) == 1 for row in zip(*tables, strict=True))
    return round(same / len(tables[0]), 4)
