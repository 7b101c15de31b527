"""Metrics: one rank per sample; all metrics are derived from the ranks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm4sbr.errors import TrainingError

Label = TypeVar("Label", bound=Hashable)

FLIPS = 9_999
"""Random sign flips of the significance test; the smallest possible p-value is 1 / (FLIPS + 1)."""


def ranks(scores: Tensor, target: Tensor) -> Tensor:
    """The 1-based rank of each target among all items, int64 (B,); ties count against the model.

    An item with the target's score is ranked above it, so constant scores rank every target last.

    Args:
        scores: float (B, N), column j for item j + 1.
        target: int64 (B,), catalogue ids 1..N.

    Raises:
        TrainingError: a score is not a number.
    """
    broken = torch.isnan(scores).any(1)
    if bool(broken.any()):
        row = int(broken.nonzero()[0])
        raise TrainingError(f"the scores of sample {row} are not numbers (NaN); train the model again")
    own = scores.gather(1, target.unsqueeze(1) - 1)
    return (scores >= own).sum(1)


def hit_rate(ranks: Tensor, k: int) -> Tensor:
    """HR@K per sample, float64 (M,): 1 if the target is among the first K. The paper's P@K."""
    return (ranks <= k).double()


def reciprocal_rank(ranks: Tensor, k: int) -> Tensor:
    """MRR@K per sample, float64 (M,): 1 / rank within the first K, else 0."""
    return torch.where(ranks <= k, 1 / ranks.double(), 0.0)


def ndcg(ranks: Tensor, k: int) -> Tensor:
    """NDCG@K per sample, float64 (M,), with one relevant item: 1 / log2(rank + 1), 0 beyond K."""
    return torch.where(ranks <= k, 1 / torch.log2(ranks.double() + 1), 0.0)


METRICS = {"HR": hit_rate, "MRR": reciprocal_rank, "NDCG": ndcg}
"""Name -> per-sample metric."""


def per_sample(ranks: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Every metric at every K, `HR@5` and so on, as float64 (M,)."""
    return {f"{name}@{k}": metric(ranks, k) for k in ks for name, metric in METRICS.items()}


def summary(ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Mean of every metric at every K; 0 if there are no samples."""
    values = per_sample(ranks, ks)
    return {name: float(value.mean()) if len(value) else 0.0 for name, value in values.items()}


def over_seeds(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Mean, sample standard deviation (0 for one value) and the values themselves."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": spread, "values": list(values)}


def paired_test(
    differences: Mapping[Label, Tensor], groups: Tensor, *, flips: int = FLIPS, seed: int = 0
) -> dict[Label, float]:
    """Two-sided p-values of "the mean difference is zero", by paired sign-flip randomisation.

    Under the null hypothesis the two models of a pair are exchangeable. They are swapped for all samples of a
    group at once, since prefixes of one session resemble each other. All differences are tested with the same
    flips. p = (1 + flips at least as extreme) / (1 + flips) (Phipson & Smyth 2010).

    Args:
        differences: label -> per-sample difference, float64 (M,), already averaged over seeds.
        groups: int64 (M,), the session of each sample.
        flips: number of random sign vectors.
        seed: seed of the random signs.
    """
    if not differences or not len(groups):
        return dict.fromkeys(differences, 1.0)
    _, group = np.unique(groups.numpy(), return_inverse=True)
    columns = [np.bincount(group, weights=value.numpy()) for value in differences.values()]
    sums = np.stack(columns, 1).astype(np.float64)
    sums = sums[np.any(sums != 0, axis=1)]  # flipping a group without a difference changes nothing
    extreme = _count_extreme(sums, flips, np.random.default_rng(seed))
    return dict(zip(differences, ((1 + extreme) / (1 + flips)).tolist(), strict=True))


def _count_extreme(sums: NDArray[np.float64], flips: int, random: np.random.Generator) -> NDArray[np.int64]:
    observed = np.abs(sums.sum(0))
    slack = 1e-9 * np.abs(sums).sum(0)  # tolerance for rounding: equal sums may be added in another order
    extreme = np.zeros(sums.shape[1], dtype=np.int64)
    rows = len(sums)
    step = max(1, 2**22 // max(rows, 1))
    for start in range(0, flips, step):
        count = min(step, flips - start)
        bits = np.unpackbits(random.integers(0, 256, (count, (rows + 7) // 8), dtype=np.uint8), axis=1)
        signs = bits[:, :rows].astype(np.float64) * 2 - 1
        extreme += (np.abs(signs @ sums) >= observed - slack).sum(0)
    return extreme
