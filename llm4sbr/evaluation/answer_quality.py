"""Quality of the answers themselves, without a trained model: do they name real items, and the right ones?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr.data.batches import batches
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation import metrics
from llm4sbr.intents import IntentStore
from llm4sbr.intents.texts import Meanings
from llm4sbr.localizers.title import matches
from llm4sbr.protocols import Catalogue, Encoder, Samples

K = 20
"""List length K of the metrics by intent alone."""

MOST = 5_000
"""Maximum number of validation samples that are ranked."""

NEAR = 0.9
"""Share of common characters from which an answer nearly matches a title, see `localizers.title`."""


EXACTLY, NEARLY, MADE_UP, EMPTY = range(4)
"""How a text names items of the catalogue."""


def kinds(texts: Sequence[str], catalogue: Catalogue, encoder: Encoder) -> Tensor:
    """Whether each text names an item exactly, nearly, or not at all, or is empty; int64 (n,).

    Exactly: by its title, or by title and attributes as in `Item.text`, ignoring case. A text of several
    lines counts as its worst line.
    """
    exact = {text.casefold() for text in (*catalogue.titles, *catalogue.texts())}
    lines = sorted({line for text in texts for line in text.split("\n")} - {""})
    kind = {line: EXACTLY if line.casefold() in exact else MADE_UP for line in lines}
    unsure = [line for line, found in kind.items() if found == MADE_UP]
    kind |= dict.fromkeys(matches(unsure, catalogue, encoder, similarity=NEAR), NEARLY)
    worst = [
        max((kind[line] for line in text.split("\n") if line), default=EXACTLY) if text else EMPTY
        for text in texts
    ]
    return torch.tensor(worst, dtype=torch.int64)


def statistics(
    table: pl.DataFrame, names: Sequence[str], counts: Tensor, found: Meanings, again: Tensor
) -> dict[str, Any]:
    """Quality figures of one source's answers; shares are of the answers that are not empty.

    Args:
        table: the answers, a column per perspective.
        names: the P perspectives.
        counts: int64 (P, n), the samples that have each of n distinct answers.
        found: what these mean.
        again: int64 (P,), the samples whose session has the item that their answer is tied to.

    Returns:
        `samples`, `same_from_all_perspectives`, and by perspective the numbers `empty` and `distinct`, the
        shares `exact_title`, `near_title` and `no_title`, which sum to 1, the mean cosine `grounding` and
        the share `repeats_session`; None where there are no answers.
    """
    told: dict[str, Any] = {
        "samples": len(table),
        "same_from_all_perspectives": identical([table[name] for name in names]),
        "perspectives": {},
    }
    for name, times, seen in zip(names, counts, again.tolist(), strict=True):
        kind = torch.zeros(4, dtype=torch.int64).index_add_(0, found.kind, times)
        number, tied = int(kind[:EMPTY].sum()), int(times[found.best > 0].sum())
        cosine = float(times.double() @ found.cosine.double())
        told["perspectives"][name] = {
            "empty": int(kind[EMPTY]),
            "distinct": table[name].filter(table[name] != "").n_unique(),
            "exact_title": _share(kind[EXACTLY], number),
            "near_title": _share(kind[NEARLY], number),
            "no_title": _share(kind[MADE_UP], number),
            "grounding": _share(cosine, tied),
            "repeats_session": _share(seen, tied),
        }
    return told


def _share(part: float | Tensor, whole: int) -> float | None:
    return round(float(part) / whole, 4) if whole else None


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
    first, *others = tables
    if not others or not len(first):
        return None
    same = [(first == other).to_numpy() for other in others]
    return round(float(np.logical_and.reduce(same).mean()), 4)
