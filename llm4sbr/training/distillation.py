"""Fits the predictor of intents of a trained model (distillation of the LLM's answers).

The predictor is a ridge regression from the model's features of a training session to the session's stored
intents, solved in closed form; the model itself does not change. One forward pass over at most `SAMPLES`
samples and one linear system: no epochs, no learning rate, deterministic weights. The ridge penalty is chosen
on held-out training samples, so neither validation nor test sessions are used.
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
"""Maximum number of training samples, drawn at random: several times the number of features. Twice as many
reduce the error by 6% but do not change the ranking (measured on Beauty), and take twice the time."""

ASIDE, MOST_ASIDE = 0.1, 1000
"""Share of them held out to choose the penalty, and its maximum number."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties to try, per sample, for features of unit variance."""

BATCH = 256


def distil(
    model: LLM4SBR, sessions: Sessions, samples: Samples, intents: SampleIntents
) -> dict[str, Any] | None:
    """Add a predictor of intents to a trained model.

    Args:
        model: trained, with a fuser; left in evaluation mode.
        sessions: the sessions that the samples refer to.
        samples: training samples.
        intents: their intents; a sample is used if it has one from every perspective.

    Returns:
        `samples`, `penalty`, `seconds`, and `unexplained`, the squared error on held-out samples as a share
        of their variance; None, and no predictor, if fewer than two samples can be used.
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
    """Sums over random samples with intents; and features and intents of held-out samples, in batches."""
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
    """Sums and products of features and targets, float64, of fixed size."""

    def __init__(self) -> None:
        self.count = 0
        self._width = 0
        self._products = self._totals = torch.zeros(0, dtype=torch.float64)

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add features float (b, F) and targets float (b, P E)."""
        if not len(features):
            return
        self._width = features.shape[1]
        rows = torch.cat([features, targets, features.new_ones(len(features), 1)], 1).double()
        products, totals = rows[:, : self._width].T @ rows, rows.sum(0)
        self._products = products if not self.count else self._products.add_(products)
        self._totals = totals if not self.count else self._totals.add_(totals)
        self.count += len(features)

    def solve(self, penalty: float) -> _Line:
        """The ridge regression of the targets on standardised features."""
        width = self._width
        means = self._totals[:-1] / self.count
        mean, level = means[:width], means[width:]
        covariance = self._products[:, :-1] / self.count - mean.unsqueeze(1) * means
        scale = covariance.diagonal().clamp(min=0).sqrt()
        scale = torch.where(scale > 1e-6, scale, 1.0)  # do not divide by the zero of a constant feature
        gram = covariance[:, :width] / scale / scale.unsqueeze(1)
        factor = torch.linalg.cholesky(gram + penalty * torch.eye(width, dtype=torch.float64))
        moments = covariance[:, width:] / scale.unsqueeze(1)
        weight = torch.cholesky_solve(moments, factor) / scale.unsqueeze(1)
        return _Line(weight.T.float().contiguous(), (level - mean @ weight).float())
