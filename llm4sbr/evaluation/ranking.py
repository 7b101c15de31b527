"""Full ranking: the rank of every sample's target in the whole catalogue, for models and baselines alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from llm4sbr.data.batches import Batch, batches
from llm4sbr.data.repeats import without_own
from llm4sbr.evaluation.metrics import ranks
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.intents import IntentStore
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.system import devices

MOST_SCORES = 2**23
"""Maximum number of a batch's scores, 32 MB: a large catalogue gets smaller batches. A model with everything
that adds to scores has about a dozen such tensors in memory at a time."""


class SampleIntents(NamedTuple):
    """Looks up the intents of M samples."""

    store: IntentStore
    rows: Tensor
    """int64 (M,): row of each sample in the store, -1 for none."""

    @classmethod
    def of(cls, store: IntentStore, sessions: Sessions, samples: Samples) -> SampleIntents:
        """Look up samples, or their last items where the LLM was asked about items."""
        return cls(store, store.rows_of(sessions, samples))

    def gather(self, index: Tensor, *, drop: Tensor | None = None) -> Tensor:
        """float32 (B, P, E) for the samples `index`; those with a true `drop` (bool (B,)) get zeros."""
        rows = self.rows[index]
        return self.store.gather(rows if drop is None else rows.masked_fill(drop, -1))


def rank_all(
    score: Callable[[Batch], Tensor],
    sessions: Sessions,
    samples: Samples,
    *,
    num_items: int,
    batch_size: int,
    repeats: bool,
) -> Tensor:
    """The rank of each sample's target, int64 (M,) on the CPU, in the samples' order.

    Where lists leave out the session's own items, a target among them has the last rank.

    Args:
        score: returns float (B, N) for a batch, on any device.
        sessions: the sessions that the samples refer to.
        samples: M samples.
        num_items: N.
        batch_size: maximum number of samples per batch.
        repeats: whether a list may contain the session's own items.
    """
    found = torch.zeros(len(samples.key), dtype=torch.int64)
    if not len(found):
        return found
    size = max(1, min(batch_size, MOST_SCORES // num_items))
    with torch.inference_mode():
        for batch in batches(sessions, samples, batch_size=size):
            scores = score(batch)
            if not repeats:
                scores = without_own(scores, batch.items.to(scores.device), batch.mask.to(scores.device))
            found[batch.index] = ranks(scores, batch.target.to(scores.device)).cpu()
    return found


def scorer(
    model: LLM4SBR, intents: SampleIntents | None, device: torch.device, *, predict: bool = False
) -> Callable[[Batch], Tensor]:
    """Scoring function of a model: with the samples' intents if there are any, or with predicted ones."""

    def score(batch: Batch) -> Tensor:
        text = intents.gather(batch.index).to(device) if intents else None
        scores: Tensor = model(batch.items.to(device), batch.mask.to(device), text, predict=predict)
        return scores

    return score


def pick_device(name: str) -> torch.device:
    """The device of `train.device`; `auto` is a GPU if there is one. `ConfigError` if it does not exist."""
    return torch.device(devices.device(name, "train.device"))
