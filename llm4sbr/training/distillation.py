"""Teaches a trained model to predict the intents that the LLM would have given.

The model stays as it is; its predictor is a ridge regression from what the model knows about a training
session to the session's stored intents, solved in closed form. One forward pass over at most `SAMPLES`
samples and one linear system: no epochs, no step size, the same weights every time. The penalty is the one
that errs least on training samples kept aside, so neither validation nor test sessions have a part in it.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr.data.batches import Batch, batches
from llm4sbr.evaluation.ranking import SampleIntents
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.fusion.predictor import Predictor
from llm4sbr.protocols import Samples, Sessions

SAMPLES = 10_000
"""Training samples used at most, drawn at random: several times the features. Twice as many err 6% less but
rank the same (measured on Beauty), and cost twice the time."""

ASIDE, MOST_ASIDE = 0.1, 1000
"""Share of them by which the penalty is chosen, and how many at most."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties tried, per sample, for features of unit variance."""

BATCH = 256


def distil(
    model: LLM4SBR, sessions: Sessions, samples: Samples, intents: SampleIntents
) -> dict[str, Any] | None:
    """Give a trained model a predictor of intents.

    Args:
        model: trained, with a fuser; left in evaluation mode.
        sessions: what the samples refer to.
        samples: training samples.
        intents: theirs; a sample counts if all its perspectives have one.

    Returns:
        `samples`, `penalty`, `seconds`, and `unexplained`, the squared error on samples kept aside as a share
        of their variance; None, and no predictor, if fewer than two samples count.
    """
    started = time.perf_counter()
    model.eval()
    predictor = model.add_predictor().to(next(model.parameters()).device)
    sums, aside = _pass(model, sessions, samples, intents)
    if not (sums and aside):
        model.predictor = None
        return None
    features, targets = (torch.cat(parts) for parts in zip(*aside, strict=True))
    found = {penalty: sums.solve(penalty) for penalty in PENALTIES}
    errors = {
        penalty: float((features @ line.weight.T + line.bias - targets).square().mean())
        for penalty, line in found.items()
    }
    penalty = min(errors, key=errors.__getitem__)
    with torch.no_grad():
        predictor.map.weight.copy_(found[penalty].weight)
        predictor.map.bias.copy_(found[penalty].bias)
    spread = float((targets - targets.mean(0)).square().mean())
    return {
        "samples": sums.count + len(targets),
        "penalty": penalty,
        "unexplained": errors[penalty] / spread if spread else 0.0,
        "seconds": round(time.perf_counter() - started, 3),
    }


@torch.no_grad()
def _pass(
    model: LLM4SBR, sessions: Sessions, samples: Samples, intents: SampleIntents
) -> tuple[_Sums, list[tuple[Tensor, Tensor]]]:
    """Sums over random samples that have intents; features and intents of those kept aside, in batches."""
    known = (intents.rows >= 0).nonzero().squeeze(1)
    chosen = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:SAMPLES]]
    part = Samples(*(values[chosen] for values in samples))
    first_used = min(MOST_ASIDE, max(1, int(ASIDE * len(chosen))))
    sums, aside = _Sums(), []
    for batch in batches(sessions, part, batch_size=BATCH):
        targets = intents.gather(chosen[batch.index])
        whole = targets.any(2).all(1)
        if bool(whole.any()):
            features = _features(model, batch)[whole]
            targets, used = targets[whole].flatten(1), batch.index[whole] >= first_used
            sums.add(features[used], targets[used])
            aside.append((features[~used], targets[~used]))
    return sums, aside if any(len(rows) for rows, _ in aside) else []


def _features(model: LLM4SBR, batch: Batch) -> Tensor:
    """Float32 (B, F), on the CPU."""
    predictor = model.predictor
    assert isinstance(predictor, Predictor)  # `distil` has just added it
    device = next(model.parameters()).device
    items, mask = batch.items.to(device), batch.mask.to(device)
    return predictor.features(model.backbone(items, mask), mask, model.texts(items)).float().cpu()


class _Line(NamedTuple):
    """y = weight x + bias."""

    weight: Tensor
    """float32 (P E, F)."""
    bias: Tensor
    """float32 (P E,)."""


class _Sums:
    """Sums and products of features and targets, float64: (F, F) numbers, however many samples there are."""

    def __init__(self) -> None:
        self.count = 0
        self._width = 0
        self._products = self._totals = torch.zeros(0, dtype=torch.float64)

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in float (b, F) and float (b, P E)."""
        if not len(features):
            return
        self._width = features.shape[1]
        rows = torch.cat([features, targets, features.new_ones(len(features), 1)], 1).double()
        products, totals = rows[:, : self._width].T @ rows, rows.sum(0)
        self._products = products if not self.count else self._products.add_(products)
        self._totals = totals if not self.count else self._totals.add_(totals)
        self.count += len(features)

    def solve(self, penalty: float) -> _Line:
        """The map of standardised features that errs least under a ridge penalty."""
        width = self._width
        means = self._totals[:-1] / self.count
        mean, level = means[:width], means[width:]
        covariance = self._products[:, :-1] / self.count - mean.unsqueeze(1) * means
        scale = covariance.diagonal().clamp(min=0).sqrt()
        scale = torch.where(scale > 1e-6, scale, 1.0)  # a constant feature says nothing
        gram = covariance[:, :width] / scale / scale.unsqueeze(1)
        factor = torch.linalg.cholesky(gram + penalty * torch.eye(width, dtype=torch.float64))
        moments = covariance[:, width:] / scale.unsqueeze(1)
        weight = torch.cholesky_solve(moments, factor) / scale.unsqueeze(1)
        return _Line(weight.T.float().contiguous(), (level - mean @ weight).float())
