"""Verifies that an exported model gives the trained model's scores, lists and metrics.

A list agrees if the trained model scores none of its items lower than its own K-th best item. So items with
equal scores may be in any order and may replace each other; a target that ties with other items counts as the
trained model's list has it, or their order would look like a change of the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr.data.batches import Batch, batches, collate
from llm4sbr.errors import ExportError
from llm4sbr.evaluation.metrics import hit_rate, reciprocal_rank
from llm4sbr.exporting import Scorer
from llm4sbr.protocols import Samples, Sessions

Inputs = dict[str, Tensor]

TOLERANCE = 1e-4
"""Largest difference of a score, relative to the best score of its list (and at least 1)."""

EXACT, ROUNDED = 1.0, 0.999
"""Minimum share of lists that must agree, for fp32 and for all other precisions."""

METRIC_CHANGE = 1e-3
"""Maximum change of HR@K or MRR@K on the test samples."""

SHAPES = ((1, 1), (1, None), (3, 2), (7, 5), (5, None))
"""Sessions and clicks of the batches compared first; None is the longest session."""


class Reference(NamedTuple):
    """The trained model, called with the artefact's inputs."""

    scores: Callable[[Inputs], Tensor]
    """float (B, N), nothing excluded."""
    inputs: Callable[[Batch], Inputs]
    """`items`, `mask` and, if they are an input, `intents`."""


class Agreement(NamedTuple):
    """Results of both models for one batch."""

    difference: float
    """Largest difference of a score, relative."""
    agree: Tensor
    """bool (B,)."""
    trained: Tensor
    """int64 (B, K), the trained model's list."""
    artefact: Tensor
    """int64 (B, K)."""
    found: Tensor
    """float (B,), share of the K best items that the artefact's list has, or equally good ones."""
    tied: Tensor
    """bool (B,), whether the trained model gives the target's score to other items too."""


def verify(
    scorer: Scorer,
    reference: Reference,
    *,
    sessions: Sessions,
    samples: Samples,
    k: int,
    exact: bool,
    recall: float | None = None,
    exclude: bool = False,
    max_batch: int = 64,
    advance: Callable[..., None] = lambda count: None,
) -> dict[str, Any]:
    """Compare on batches of unusual shapes and on all samples; returns the result.

    Args:
        scorer: the loaded artefact.
        reference: the trained model.
        sessions: the sessions that the samples refer to.
        samples: the test samples.
        k: K.
        recall: least share of the K best items that lists must have, instead of agreeing, for an index.
        exact: every list must agree; otherwise (with rounded weights) a few may differ.
        exclude: leave the sessions' own items out of the lists of `samples`, as in the run's table.
        max_batch: maximum number of sessions per call.
        advance: called with the number of finished samples.

    Raises:
        ExportError: a difference above tolerance.
    """
    shapes = []
    for batch in odd_batches(sessions, samples, max_batch):
        inputs = reference.inputs(batch)
        both = [compare(scorer, reference, inputs, batch.target, k=k, exclude=one) for one in (True, False)]
        difference = max(one.difference for one in both)
        sizes = {"sessions": len(batch.items), "clicks": batch.items.shape[1]}
        shapes.append(sizes | {"max_difference": difference})
    agree, positions, found_shares, worst = [], [], [], 0.0
    for batch in batches(sessions, samples, batch_size=max_batch):
        one = compare(scorer, reference, reference.inputs(batch), batch.target, k=k, exclude=exclude)
        agree.append(one.agree)
        found_shares.append(one.found)
        trained, found = position(one.trained, batch), position(one.artefact, batch)
        positions.append(torch.stack([trained, torch.where(one.tied & one.agree, trained, found)]))
        worst = max(worst, one.difference)
        advance(len(one.agree))
    lists = torch.cat(agree)
    result = {
        "provider": scorer.provider,
        "shapes": shapes,
        "max_difference": max([worst, *(one["max_difference"] for one in shapes)]),
        "lists": len(lists),
        "lists_that_agree": int(lists.sum()),
        "metrics": _metrics(torch.cat(positions, 1), k),
        "tolerance": {
            "max_difference": TOLERANCE,
            "agreement": EXACT if exact else ROUNDED,
            "metric_change": METRIC_CHANGE,
        },
    }
    if recall is not None:
        result[f"recall@{k}"] = float(torch.cat(found_shares).mean())
        result["tolerance"] = {"max_difference": TOLERANCE, f"recall@{k}": recall}
    _judge(result, k)
    return result


def odd_batches(sessions: Sessions, samples: Samples, max_batch: int) -> Iterator[Batch]:
    """Batches with the `SHAPES`: the longest samples, cut to their last clicks."""
    lengths = samples.end - samples.start
    order = lengths.argsort(descending=True, stable=True)
    for count, clicks in SHAPES:
        index = order[: min(count, max_batch)]
        end = samples.end[index]
        start = samples.start[index]
        if clicks is not None:
            start = torch.maximum(start, end - clicks)
        yield collate(sessions, Samples(start, end, samples.key[index]), torch.arange(len(index)))._replace(
            index=index
        )


def compare(
    scorer: Scorer, reference: Reference, inputs: Inputs, targets: Tensor, *, k: int, exclude: bool
) -> Agreement:
    """The K best items of a batch by both models, compared; `targets` int64 (B,), catalogue ids."""
    items, mask = inputs["items"], inputs["mask"]
    ids, values = scorer.score(**inputs, exclude_seen=torch.full((len(items), 1), exclude))
    full = reference.scores(inputs)
    if exclude:
        full = full.scatter(1, torch.where(mask, items, items[:, :1]) - 1, -torch.inf)
    best = full.topk(k)
    real = ids > 0
    own = full.gather(1, (ids - 1).clamp(min=0))  # the artefact's items, as the trained model scores them
    scale = best.values[:, :1].abs().nan_to_num(posinf=1.0).clamp(min=1)
    gap = torch.where(real, (own - values).abs() / scale, 0.0).nan_to_num(nan=torch.inf)
    ordered = ids.sort(1).values
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(1)
    complete = real.sum(1) == best.values.isfinite().sum(1)
    good = (own >= best.values[:, -1:] - TOLERANCE * scale) | ~real
    equal = (full - full.gather(1, targets.unsqueeze(1) - 1)).abs() <= TOLERANCE * scale
    agree = good.all(1) & complete & ~twice
    wanted = best.values.isfinite().sum(1).clamp(min=1)
    share = (good & real).sum(1) / wanted
    return Agreement(float(gap.max()), agree, best.indices + 1, ids, share, equal.sum(1) > 1)


def position(lists: Tensor, batch: Batch) -> Tensor:
    """The position of each target in its list, counted from 1, int64 (B,); K + 1 if it is missing."""
    found = lists == batch.target.unsqueeze(1)
    return torch.where(found.any(1), found.int().argmax(1) + 1, lists.shape[1] + 1)


def _metrics(positions: Tensor, k: int) -> dict[str, dict[str, float]]:
    """HR@K and MRR@K of both models, from positions int64 (2, M)."""
    result = {}
    for name, metric in (("HR", hit_rate), ("MRR", reciprocal_rank)):
        trained, artefact = (float(metric(one, k).mean()) for one in positions)
        result[f"{name}@{k}"] = {"trained": trained, "artefact": artefact, "change": artefact - trained}
    return result


def _judge(result: dict[str, Any], k: int) -> None:
    allowed = result["tolerance"]
    recall = f"recall@{k}"
    if recall in allowed and result["max_difference"] <= allowed["max_difference"]:
        if result[recall] < allowed[recall]:
            raise ExportError(f"{recall} of the index is {result[recall]:.4f}, asked was {allowed[recall]}")
        return
    share = result["lists_that_agree"] / result["lists"]
    change = max(abs(metric["change"]) for metric in result["metrics"].values())
    if result["max_difference"] > allowed["max_difference"]:
        found, least = f"scores differ by up to {result['max_difference']:.2g}", allowed["max_difference"]
    elif share < allowed["agreement"]:
        found, least = f"only {share:.2%} of the lists agree", f"{allowed['agreement']:.1%}"
    elif change > allowed["metric_change"]:
        found, least = f"a metric changes by {change:.2g}", allowed["metric_change"]
    else:
        return
    raise ExportError(f"the exported model does not answer as the trained one: {found} (tolerance {least})")
