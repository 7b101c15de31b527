"""Fits the weights of `fusion.counted` to validation sessions, which neither a model nor a table has seen.

    minimise  mean over samples of v_i (1 - p_i^q) / q; for q = 0, of -v_i log p_i
    p_i = exp f_target / sum over j of exp f_j     v_i ~ (1 + n_target)^-even
    f_j = a score_j + b log n_j + r_j + sum over tables k of w_k log(1 + s_kj / e_k)

a, how far the model's own scores are to be trusted, is divided out afterwards: lists are the same. Most
samples have popular targets; v makes up for that where it improves the lists (`EVEN`). The logarithm is ruled
by targets that no list will show; q (Zhang & Sabuncu 2018, arXiv 1805.07836) leaves the head of the lists to
those that one may (`BOUNDED`). Of the catalogue the model's best items, the session's own, those that a table
knows and a random rest take part; the rest counts as often as it stands for others (sampled softmax). A weak
prior keeps weights where few sessions say otherwise.

What the result is worth is measured with weights of the other half of the sessions, and it is taken only if
that is no worse than the model alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llm4sbr.data.batches import batches
from llm4sbr.data.repeats import without_own
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.ranking import MOST_SCORES, SampleIntents, scorer
from llm4sbr.fusion.counted import OWN, PRIOR, Counted
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.training import SELECT_BY
from llm4sbr.training.candidates import BATCH, Candidates, Scores, candidates
from llm4sbr.training.material import Material

EVEN = (0.0, 0.25)
"""Exponents of v to choose from: 0 counts every sample alike, 1 every target item."""

BOUNDED = (0.0, 0.4)
"""Values of q to choose from."""

SAMPLES = 4_000
"""Most validation samples that weights are fitted to."""
LEAST = 40
"""Fewest; with less nothing is fitted."""

STEPS = 40

FARTHEST = 4.0
"""Bound on how far log a, b, log w and log e move in a fit, which few sessions could drive away."""


def add_counted(
    model: LLM4SBR,
    material: Material,
    *,
    weights: Mapping[str, Sequence[float]] | None,
    ks: tuple[int, ...],
) -> dict[str, Any]:
    """Add `material.tables` to a trained model, if that is better; what its record says of it.

    Args:
        model: in evaluation mode.
        material: what it was trained on.
        weights: known ones, of the model that a refit repeats; None: fitted to the validation samples.
        ks: list lengths of the metrics.
    """
    if weights is None and material.selected_on != "valid":
        return {}
    clicks = torch.bincount(material.fit.items, minlength=len(model.backbone.item_embeddings()) + 1)[1:]
    own = material.repeats if weights is None else OWN in weights
    names = [*material.tables, *([OWN] if own else [])]
    counted = Counted(len(clicks), names).to(next(model.parameters()).device)
    counted.fit(material.tables, clicks)
    if weights is not None:
        counted.weigh(weights)
        model.counted = counted
        return {}
    sessions, samples, repeats = material.sessions, material.select, material.repeats
    intents = material.select_intents
    found = fit_counted(model, counted, sessions, samples, intents, clicks, repeats=repeats, ks=ks)
    if found is None or not found["better"]:
        return {"counted": found}
    model.counted = counted
    return {"counted": found, "valid": found["valid"]}


def fit_counted(
    model: LLM4SBR,
    counted: Counted,
    sessions: Sessions,
    samples: Samples,
    intents: SampleIntents | None,
    clicks: Tensor,
    *,
    repeats: bool,
    ks: tuple[int, ...],
) -> dict[str, Any] | None:
    """Set the weights of `counted`, which has its tables, for a model that is without it so far.

    Args:
        model: in evaluation mode.
        counted: what is added, on the same device.
        sessions: the sessions that the samples refer to.
        samples: validation samples.
        intents: of these, if the model takes any.
        clicks: int64 (N,), of each item in training.
        repeats: whether lists may contain a session's own items.
        ks: list lengths of the metrics.

    Returns:
        `weights`, `valid` (each half of the sessions with weights fitted to the other half), `alone` (without
        anything added), `samples` and `seconds`; None if there are too few samples.
    """
    started = time.perf_counter()
    known = _known(sessions, samples, repeats)
    if len(known) < LEAST:
        return None
    chosen = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:SAMPLES]]
    part = Samples(*(values[chosen] for values in samples))
    device = counted.prior.device

    def scoring(which: Tensor) -> Scores:
        own = None if intents is None else intents._replace(rows=intents.rows[which])
        return scorer(model, own, device)

    found = candidates(scoring(chosen), counted, sessions, part, repeats=repeats)
    names, half = counted.names, _half(sessions, samples)
    if not 0 < int(half[chosen].sum()) < len(chosen):
        return None
    popular = clicks[sessions.items[part.end] - 1]
    found = max(
        (found.evened(popular, even)._replace(bounded=q) for even in EVEN for q in BOUNDED),
        key=lambda one: _worth(one, half[chosen], names),
    )
    ranks = []
    for which in (half.nonzero().squeeze(1), (~half).nonzero().squeeze(1)):
        counted.weigh(fitted(found.some(half[chosen] != half[which[0]]), names))
        score, own = scoring(which), Samples(*(values[which] for values in samples))
        ranks.append(_ranks(score, counted, sessions, own, repeats=repeats))
    alone, valid = (metrics.summary(torch.cat(both), ks) for both in zip(*ranks, strict=True))
    weights = fitted(found, names)
    counted.weigh(weights)
    finite = all(math.isfinite(one) for values in weights.values() for one in values)
    return {
        "weights": weights,
        "valid": valid,
        "alone": alone,
        "better": finite and valid[SELECT_BY] >= alone[SELECT_BY],
        "samples": len(part.key),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _ranks(
    score: Scores, counted: Counted, sessions: Sessions, samples: Samples, *, repeats: bool
) -> tuple[Tensor, Tensor]:
    """Ranks without and with what is counted, int64 (M,) each."""
    found = torch.zeros(2, len(samples.key), dtype=torch.int64)
    size = counted.popularity.shape[0]
    # Both from one pass of the model, which is what takes the time.
    batch_size = max(1, min(BATCH, MOST_SCORES // size))
    with torch.inference_mode():
        for batch in batches(sessions, samples, batch_size=batch_size):
            scores = score(batch)
            items, mask, target = (one.to(scores.device) for one in (batch.items, batch.mask, batch.target))
            for row, whole in enumerate((scores, scores + counted(items, mask))):
                whole = whole if repeats else without_own(whole, items, mask)
                found[row, batch.index] = metrics.ranks(whole, target).cpu()
    return found[0], found[1]


def _worth(found: Candidates, half: Tensor, names: Sequence[str]) -> float:
    """Mean of 1 / rank up to 20 among the candidates, each half with weights fitted to the other."""
    total = 0.0
    for which in (half, ~half):
        told, own = fitted(found.some(~which), names), found.some(which)
        scores = own.scores + told[PRIOR][0] * own.popularity
        if OWN in names:
            scores = scores + own.own @ torch.tensor(told[OWN])
        for number, name in enumerate(_tables(names)):
            weight, small = told[name]
            scores = scores + weight * torch.log1p(own.sums[:, :, number] / small)
        scores = scores.masked_fill(own.share == -torch.inf, -torch.inf)
        ranks = (scores >= scores.gather(1, own.target.unsqueeze(1))).sum(1)
        total += float(metrics.reciprocal_rank(ranks, 20).sum())
    return total / max(1, len(half))


def fitted(found: Candidates, names: Sequence[str]) -> dict[str, list[float]]:
    """The weights that minimise the loss, by table (w, e), for `PRIOR` (b) and `OWN` (r), divided by a."""
    start = [float(one[one > 0].median().log()) if (one > 0).any() else 0.0 for one in found.sums.unbind(2)]
    first = torch.tensor(start)
    scale = torch.zeros((), requires_grad=True)  # log a
    prior = torch.zeros((), requires_grad=True)
    own = torch.zeros(2, requires_grad=OWN in names)
    weight = torch.full_like(first, -1.0).requires_grad_()  # log w
    small = torch.zeros_like(first).requires_grad_()  # log e - start
    parameters = [scale, prior, weight, small, *([own] if OWN in names else [])]
    optimizer = torch.optim.LBFGS(parameters, max_iter=STEPS, line_search_fn="strong_wolfe")

    def now() -> tuple[Tensor, ...]:
        moved = (FARTHEST * torch.tanh(one / FARTHEST) for one in (scale, prior, own, weight + 1, small))
        a, b, r, w, e = moved
        return a.exp(), b, r, (w - 1).exp(), (first + e).exp()

    def loss() -> Tensor:
        a, b, r, w, e = now()
        told = torch.log1p(found.sums / e) @ w
        logits = a * found.scores + b * found.popularity + found.own @ r + told + found.share
        entropy = functional.cross_entropy(logits, found.target, reduction="none")
        doubt = ((weight + 1) / 2).square().sum() + (small / 3).square().sum()
        doubt = doubt + scale.square() + prior.square() + (own / 3).square().sum()
        q = found.bounded
        lost = (1 - (-q * entropy).exp()) / q if q else entropy
        return (found.weight * lost).mean() + doubt / (2 * len(logits))

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        a, b, r, w, e = now()
        pairs = torch.stack([w / a, e], 1).double().tolist()
        told = {PRIOR: [float(b / a)]} | dict(zip(_tables(names), pairs, strict=True))
        return told | ({OWN: (r / a).double().tolist()} if OWN in names else {})


def _tables(names: Sequence[str]) -> list[str]:
    """Those of the names that are tables."""
    return [name for name in names if name != OWN]


def _known(sessions: Sessions, samples: Samples, repeats: bool) -> Tensor:
    """Samples whose target a list may contain, int64."""
    every = torch.arange(len(samples.key))
    if repeats or not len(every):
        return every
    kept = [
        batch.index[(batch.items != batch.target.unsqueeze(1)).all(1)]
        for batch in batches(sessions, samples, batch_size=512)
    ]
    return torch.cat(kept).sort().values


def _half(sessions: Sessions, samples: Samples) -> Tensor:
    """Which half of the sessions each sample is of, bool."""
    return torch.searchsorted(sessions.offsets, samples.end, right=True) % 2 == 1


def weights_of(facts: Mapping[str, Any]) -> dict[str, list[float]]:
    """The fitted weights in a model's record, nothing if there are none."""
    found = facts.get("counted")
    return dict(found["weights"]) if found and found["better"] else {}
