"""`evaluate --cold`: how often items that nobody clicked in training are found, and what the others lose.

Three rows on the same samples: the model with the held-out items added as `catalogue add` adds them; the
items whose title is most like the session's last click; and the items of the last click's category in a
random order, since by their clicks new items are all alike. A model of ids alone has no score for a new item:
chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr import registry, store
from llm4sbr.config.in_force import configure
from llm4sbr.data import cold
from llm4sbr.data.batches import batches, sample_keys
from llm4sbr.data.repeats import without_own
from llm4sbr.errors import StoreError
from llm4sbr.evaluation.metrics import hit_rate
from llm4sbr.exporting.new_items import Prior, measured_prior
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.fusion.rows import new_rows
from llm4sbr.intents.texts import items_of
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.stages.catalogue import texts_of_new

RESULT = "cold.json"
K = 20
BATCH = 128


def evaluate_cold(run: Path, *, variant: str | None = None) -> dict[str, Any]:
    """Write `evaluate/cold.json` and return its content.

    Args:
        run: trained with `data.hold_out`.
        variant: which model; by default the best on validation.

    Raises:
        InputError: the model scores no titles.
        StoreError: nothing was held out, or no test session clicked on it.
    """
    prefixes, keys, new = cold.load(run / "prepare")
    if not prefixes:
        raise StoreError(f"{run / 'prepare'}: no test session has a click on a held-out item")
    original = ReferenceModel.of(run, variant=variant, refitted=False)
    config = configure(run).localize
    encoder: Any = registry.create("encoders", config.encoder, **config.encoder_options)
    vectors = encoder.encode(texts_of_new(new, config.item_text))
    texts = store.read_tensors(items_of(run / "localize", original.trained.variant))["items"]
    prior = measured_prior(original, texts)
    size, k = original.prepared.catalogue.size, min(K, original.prepared.catalogue.size)
    place = {key: number for number, key in enumerate(new.keys)}
    target = torch.tensor([size + 1 + place[key] for key in keys])
    sessions, samples = _samples(prefixes)
    ranks, _ = _ranks(original, sessions, samples, target, vectors, prior)
    test, every = original.test, original.prepared.sessions
    warm, alone = _ranks(original, every, test, every.items[test.end], vectors, prior)
    both = torch.cat([texts, vectors])
    last = torch.tensor([prefix[-1] for prefix in prefixes])
    found = {
        "k": k,
        "model": f"{original.trained.variant}, seed {original.trained.seed}",
        "new_items": len(new.keys),
        "items": size,
        "samples_on_new": len(keys),
        "samples_on_others": len(warm),
        "prior": prior.value,
        "prior_measured": prior.measured,
        "new": {
            "model": _rate(ranks, k),
            "text only": _rate(_by_text(both, last, target, sessions, samples), k),
            "category of the last click": _by_category(original, new, last, target, k),
            "ids only": k / (size + len(new.keys)),
        },
        "others": {"with new items": _rate(warm, k), "without": _rate(alone, k)},
    }
    store.write_json(run / "evaluate" / RESULT, found)
    return found


def _samples(prefixes: list[list[int]]) -> tuple[Sessions, Samples]:
    """Samples of these prefixes; their target is a placeholder."""
    flat = torch.tensor([one for prefix in prefixes for one in (*prefix, prefix[-1])])
    offsets = torch.tensor([0, *(len(prefix) + 1 for prefix in prefixes)]).cumsum(0)
    sessions, start, end = Sessions(flat, offsets), offsets[:-1], offsets[1:] - 1
    return sessions, Samples(start, end, sample_keys(sessions, start, end))


def _ranks(
    original: ReferenceModel,
    sessions: Sessions,
    samples: Samples,
    target: Tensor,
    vectors: Tensor,
    prior: Prior,
) -> tuple[Tensor, Tensor]:
    """Ranks int64 (M,) of targets among all items, and among the model's own; ties count against them."""
    model, predict = original.saved.model, original.intent_mode == "predictor"
    fuser = cast(Any, model.fuser)
    rows = new_rows(fuser, vectors, without_intents=False) * prior.scale
    size = original.prepared.catalogue.size
    ranks, alone = torch.zeros(2, len(target), dtype=torch.int64)
    with torch.inference_mode():
        for batch in batches(sessions, samples, batch_size=BATCH):
            output = model.represent(batch.items, batch.mask, None, predict=predict)
            new = torch.cat(fuser.queries(output.fused, output.intents), 1) @ rows.T + prior.value
            scores = output.scores
            if not original.prepared.repeats:
                scores = without_own(scores, batch.items, batch.mask)
            every, wanted = torch.cat([scores, new], 1), target[batch.index]
            own = every.gather(1, wanted[:, None] - 1)
            ranks[batch.index] = (every >= own).sum(1)
            alone[batch.index] = (every[:, :size] >= own).sum(1)
    return ranks, alone


def _by_text(vectors: Tensor, last: Tensor, target: Tensor, sessions: Sessions, samples: Samples) -> Tensor:
    """Ranks by the cosine with the title of the last click, int64 (M,), without the session's own items."""
    unit = normalize(vectors, dim=1)
    ranks = torch.zeros(len(target), dtype=torch.int64)
    for batch in batches(sessions, samples, batch_size=BATCH):
        alike = unit[last[batch.index] - 1] @ unit.T
        alike = without_own(alike, batch.items, batch.mask)
        ranks[batch.index] = (alike >= alike.gather(1, target[batch.index][:, None] - 1)).sum(1)
    return ranks


def _by_category(original: ReferenceModel, new: Any, last: Tensor, target: Tensor, k: int) -> float | None:
    """Expected share of targets among K random items of the last click's category; None without one."""
    own = original.prepared.catalogue
    name = next((one for one in ("category", *own.attributes) if one in own.attributes), None)
    if name is None:
        return None
    every = [*own.attributes[name], *new.attributes.get(name, [""] * len(new.keys))]
    count = {value: every.count(value) for value in set(every)}
    hits = [
        min(1.0, k / count[every[there - 1]]) if every[there - 1] == every[one - 1] else 0.0
        for one, there in zip(last.tolist(), target.tolist(), strict=True)
    ]
    return sum(hits) / len(hits)


def _rate(ranks: Tensor, k: int) -> float:
    return float(hit_rate(ranks, k).mean())
