"""Metrics by group of test samples: frequent or rare items, long or short sessions.

Test samples are grouped in three ways: by how often the target occurs in training clicks, by how often the
last item of the prefix does, and by the length of the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation import metrics


class Group(NamedTuple):
    """Test samples whose number (of clicks) is between `least` and `most`."""

    name: str
    least: int
    most: int | None
    """None: no limit."""

    @property
    def range(self) -> str:
        """`0`, `1-5` or `6+`."""
        if self.most is None:
            return f"{self.least}+"
        return f"{self.least}-{self.most}" if self.most > self.least else f"{self.least}"


OCCURRENCES = (Group("new", 0, 0), Group("rare", 1, 5), Group("common", 6, None))
"""Groups by number of training clicks."""

LENGTHS = (Group("", 1, 2), Group("", 3, 5), Group("", 6, 10), Group("", 11, None))
"""Groups by number of clicks in the prefix."""

SPLITS = {"target": OCCURRENCES, "last": OCCURRENCES, "length": LENGTHS}
"""What samples are grouped by: the target item, the last item, or the prefix length."""


def breakdown(
    ranks: Mapping[str, Sequence[Tensor]], numbers: Mapping[str, Tensor], k: int
) -> dict[str, list[dict[str, Any]]]:
    """HR@K and MRR@K of every row in every group, averaged over seeds; plain values only.

    Args:
        ranks: row -> int64 (M,) per seed.
        numbers: key of `SPLITS` -> int64 (M,), the samples' numbers; see `numbers_of`.
        k: list length K.

    Returns:
        Key of `SPLITS` -> one entry per group with samples: `name`, `range`, `samples` and `rows`, which maps
        a row to its metrics.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for split, groups in SPLITS.items():
        members = [(group, _inside(group, numbers[split])) for group in groups]
        found[split] = [
            {
                "name": group.name,
                "range": group.range,
                "samples": int(inside.sum()),
                "rows": {row: _means([one[inside] for one in seeds], k) for row, seeds in ranks.items()},
            }
            for group, inside in members
            if bool(inside.any())
        ]
    return found


def numbers_of(prepared: Prepared) -> dict[str, Tensor]:
    """The numbers by which a run's test samples are grouped, int64 (M,) each."""
    test, items = prepared.samples["test"], prepared.sessions.items
    clicks = torch.bincount(prepared.train.items, minlength=prepared.catalogue.size + 1)
    return {
        "target": clicks[items[test.end]],
        "last": clicks[items[test.end - 1]],
        "length": test.end - test.start,
    }


def _inside(group: Group, numbers: Tensor) -> Tensor:
    """Bool (M,)."""
    inside = numbers >= group.least
    return inside if group.most is None else inside & (numbers <= group.most)


def _means(seeds: Sequence[Tensor], k: int) -> dict[str, float]:
    """`HR@K` and `MRR@K`, averaged over seeds."""
    every = torch.stack(list(seeds))  # (seeds, samples of the group)
    measures = {"HR": metrics.hit_rate, "MRR": metrics.reciprocal_rank}
    return {f"{name}@{k}": float(measure(every, k).mean()) for name, measure in measures.items()}
