"""Makes the rows of items that nobody clicked, and measures the prior that they get.

How likely a new item is to be clicked at all, its title does not say. So the prior is measured: on validation
samples the newest items of the training sessions are scored as if they were new, and the prior is the highest
with which no more than `LOSS` of the hits on other targets are lost. Most hits in all would be another goal,
but where items are few and sessions long it is reached by showing no new item at all. What titles say is
multiplied by a scale before, the one that finds most of these items: an item without an embedding has a
score that hardly differs between sessions, so that with a prior alone it is in all lists or in none.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from llm4sbr.data.batches import batches
from llm4sbr.data.repeats import without_own
from llm4sbr.errors import InputError
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.fusion.rows import new_rows
from llm4sbr.protocols import Samples

NEWEST = 0.05
"""Share of the items, those clicked last for the first time, that are scored as if they were new."""
LOSS = 0.005
"""Share of the hits on other targets that may be lost on validation: half of what may be lost later, on other
samples and items that were never trained on."""
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
"""Scales that are tried."""
K = 20
"""Length of the lists; a fifth of the items where these are few."""
SAMPLES = 4_000
"""Most validation samples that are used."""
BATCH = 128
STEPS = 200
"""Priors that are tried: as many quantiles of those at which a new item enters a list."""


class Prior(NamedTuple):
    """The prior, and what it does on validation samples."""

    value: float
    scale: float
    """Factor of the rows of new items."""
    measured: dict[str, Any]


def rows_of(original: ReferenceModel, vectors: Tensor) -> Tensor:
    """Rows float32 (n, Q) of new items, by text vectors float (n, E), for the query of the export.

    Raises:
        InputError: the model has no part that scores titles.
    """
    fuser = cast(Any, original.saved.model.fuser)
    if not hasattr(fuser, "factors_of_new"):
        name = original.saved.recipe.fuser or f"none ({original.trained.variant})"
        raise InputError(
            f"{original.trained.folder}: its fuser, {name}, scores no titles, so a new item has no score; "
            "the fusers whitened and catalogue do: --variant names another model"
        )
    return new_rows(fuser, vectors, without_intents=original.intent_mode == "none").float()


def measured_prior(original: ReferenceModel, vectors: Tensor) -> Prior:
    """Measure the prior of a model's new items.

    Args:
        original: the model.
        vectors: float (N, E), the text vectors of its own items.

    Raises:
        InputError: there are no validation samples.
    """
    samples, newest = _validation(original), _newest(original)
    k = min(K, max(1, len(vectors) // 5))
    fuser = cast(Any, original.saved.model.fuser)
    rows = new_rows(fuser, vectors[newest], without_intents=False)
    scored = _scores(original, samples, newest, rows, k + 1)  # more than k: not found
    found = [_at_scale(original, scored, scale, k) for scale in SCALES]
    best = max(found, key=lambda one: one.measured[f"HR@{k} on new"])  # of equal ones the smallest scale
    return best._replace(measured={"samples": len(samples.key), "new_items": len(newest), **best.measured})


def _at_scale(
    original: ReferenceModel, scored: tuple[Tensor, Tensor, Tensor, Tensor], scale: float, k: int
) -> Prior:
    """The highest prior that the constraint allows with this scale."""
    best, new, target, place = scored
    new = new * scale
    own = torch.where(place >= 0, new.gather(1, place.clamp(min=0)[:, None])[:, 0], target)
    enters = (best[:, k - 1] - new.max(1).values).double()
    enters = enters[enters.isfinite()]
    if not len(enters):
        raise InputError(f"{original.trained.folder}: no list that a new item could enter; use more sessions")
    tried = torch.quantile(enters, torch.linspace(0, 1, STEPS, dtype=torch.float64))
    cold = place >= 0
    before = int((~cold & ((best >= own[:, None]).sum(1) <= k)).sum())
    chosen = float(tried[0]) - 1.0  # below which no new item is in a list
    hits_cold, hits_warm = 0, before
    for prior in tried.tolist():
        score = own + prior * cold
        ahead = (best >= score[:, None]).sum(1) + (new + prior >= score[:, None]).sum(1)
        hit = ahead <= k
        warm, found = int((hit & ~cold).sum()), int((hit & cold).sum())
        if warm >= (1 - LOSS) * before:
            chosen, hits_cold, hits_warm = prior, found, warm
    measured = {
        "samples_on_new": int(cold.sum()),
        "scale": scale,
        f"HR@{k} on new": hits_cold / max(int(cold.sum()), 1),
        f"HR@{k} on others": hits_warm / max(int((~cold).sum()), 1),
        f"HR@{k} on others, without new ones": before / max(int((~cold).sum()), 1),
    }
    return Prior(chosen, scale, measured)


def _validation(original: ReferenceModel) -> Samples:
    samples = original.prepared.samples["valid"]
    if not len(samples.key):
        raise InputError(
            f"{original.trained.folder}: no validation samples, on which the prior of new items would be "
            "measured; raise data.valid"
        )
    order = torch.randperm(len(samples.key), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    return Samples(*(field[order] for field in samples))


def _newest(original: ReferenceModel) -> Tensor:
    """Rows, int64 (n,), of the items whose first click in training is the latest."""
    items, size = original.prepared.train.items, original.prepared.catalogue.size
    first = torch.full((size,), -1)
    places = torch.arange(len(items)).flip(0)
    first.scatter_(0, items.flip(0) - 1, places)  # the last one written is the first click
    count = max(1, round(NEWEST * size))
    return first.argsort(descending=True, stable=True)[:count].sort().values


def _scores(
    original: ReferenceModel, samples: Samples, newest: Tensor, rows: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of M samples what decides which targets are found.

    The best scores of other items, float (M, `most`), and those of the newest as if they were new, (M, n);
    the target's own score, float (M,), and its place among the newest, int64 (M,), or -1.
    """
    model, prepared = original.saved.model, original.prepared
    fuser = cast(Any, model.fuser)
    among = torch.full((prepared.catalogue.size,), -1)
    among[newest] = torch.arange(len(newest))
    found: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for batch in batches(prepared.sessions, samples, batch_size=BATCH):
            predict = original.intent_mode == "predictor"
            output = model.represent(batch.items, batch.mask, None, predict=predict)
            query = torch.cat(fuser.queries(output.fused, output.intents), 1)
            scores, new = output.scores.clone(), query @ rows.T
            if not prepared.repeats:
                scores = without_own(scores, batch.items, batch.mask)
                new = new.where(scores[:, newest] > -torch.inf, -torch.inf)
            target = scores.gather(1, batch.target[:, None] - 1)[:, 0]
            scores[:, newest] = -torch.inf
            best = scores.topk(most).values
            found.append((best, new, target, among[batch.target - 1]))
    best, new, target, place = (torch.cat(part) for part in zip(*found, strict=True))
    return best, new, target, place
