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

from llm4sbr.data.batches import batches
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.ranking import SampleIntents

SAMPLES = 20_000
"""Training samples used at most, drawn at random; about fifteen times the features."""

ASIDE = 0.1
"""Share of them by which the penalty is chosen."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties tried, per sample, for features of unit variance."""

BATCH = 512


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
    features, targets = _collect(model, sessions, samples, intents)
    aside = max(1, int(ASIDE * len(features)))
    if len(features) - aside < 1:
        model.predictor = None
        return None
    system = _System.of(features[aside:], targets[aside:])
    found = {penalty: system.solve(penalty) for penalty in PENALTIES}
    errors = {
        penalty: float((features[:aside] @ line.weight.T + line.bias - targets[:aside]).square().mean())
        for penalty, line in found.items()
    }
    penalty = min(errors, key=errors.__getitem__)
    with torch.no_grad():
        predictor.map.weight.copy_(found[penalty].weight)
        predictor.map.bias.copy_(found[penalty].bias)
    spread = float((targets[:aside] - targets.mean(0)).square().mean())
    return {
        "samples": len(features),
        "penalty": penalty,
        "unexplained": errors[penalty] / spread if spread else 0.0,
        "seconds": round(time.perf_counter() - started, 3),
    }


@torch.no_grad()
def _collect(
    model: LLM4SBR, sessions: Sessions, samples: Samples, intents: SampleIntents
) -> tuple[Tensor, Tensor]:
    """Features float (m, F) and intents float (m, P E) of random samples that have intents, on the CPU."""
    known = (intents.rows >= 0).nonzero().squeeze(1)
    random = torch.Generator().manual_seed(0)
    chosen = known[torch.randperm(len(known), generator=random)[:SAMPLES]]
    part = Samples(*(values[chosen] for values in samples))
    device = next(model.parameters()).device
    predictor = model.predictor
    assert predictor is not None  # `distil` has just added it
    rows = torch.zeros(len(chosen), predictor.map.in_features)
    whole = torch.zeros(len(chosen), dtype=torch.bool)
    targets = intents.gather(chosen)
    for batch in batches(sessions, part, batch_size=BATCH):
        items, mask = batch.items.to(device), batch.mask.to(device)
        found = predictor.features(model.backbone(items, mask), mask, model.texts(items))
        rows[batch.index] = found.float().cpu()
        whole[batch.index] = targets[batch.index].any(2).all(1)
    return rows[whole], targets[whole].flatten(1)


class _Line(NamedTuple):
    """y = weight x + bias."""

    weight: Tensor
    """float32 (P E, F)."""
    bias: Tensor
    """float32 (P E,)."""


class _System(NamedTuple):
    """The normal equations of standardised features, float64."""

    gram: Tensor
    """(F, F), the features' correlations."""
    moments: Tensor
    """(F, P E), features times targets, per sample."""
    mean: Tensor
    scale: Tensor
    """(F,) both, of the features."""
    level: Tensor
    """(P E,), the targets' mean."""

    @classmethod
    def of(cls, features: Tensor, targets: Tensor) -> _System:
        """Of float (m, F) and float (m, P E)."""
        mean, level = features.mean(0), targets.mean(0)
        centred = features - mean
        scale = centred.square().mean(0).sqrt()
        scale = torch.where(scale > 1e-6, scale, 1.0)  # a constant feature says nothing
        unit = centred / scale
        count = len(features)
        gram, moments = unit.T @ unit / count, unit.T @ (targets - level) / count
        return cls(gram.double(), moments.double(), mean.double(), scale.double(), level.double())

    def solve(self, penalty: float) -> _Line:
        """The map that errs least under the penalty."""
        eye = torch.eye(len(self.gram), dtype=torch.float64)
        factor = torch.linalg.cholesky(self.gram + penalty * eye)
        weight = torch.cholesky_solve(self.moments, factor) / self.scale.unsqueeze(1)
        bias = self.level - self.mean @ weight
        return _Line(weight.T.float().contiguous(), bias.float())
