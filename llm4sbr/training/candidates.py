"""Of every session the items that decide how counts are to be weighed, see `training.counting`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from llm4sbr.data.batches import Batch, batches
from llm4sbr.data.repeats import without_own
from llm4sbr.evaluation.ranking import MOST_SCORES
from llm4sbr.fusion.counted import Counted
from llm4sbr.protocols import Samples, Sessions

BEST, RANDOM = 300, 200
"""Items of a session that take part: the model's best, and others."""

BATCH = 64

Scores = Callable[[Batch], Tensor]


class Candidates(NamedTuple):
    """Items of M sessions, C each; where a session has fewer, `share` is -inf."""

    scores: Tensor
    """float32 (M, C), the model's."""
    popularity: Tensor
    """float32 (M, C)."""
    own: Tensor
    """float32 (M, C, 2), 1 for a session's last item, and 1 for each other item of it."""
    sums: Tensor
    """float32 (M, C, K), what the tables say."""
    share: Tensor
    """float32 (M, C), log of the number of items that this one stands for."""
    target: Tensor
    """int64 (M,), where the target is among them."""
    weight: Tensor
    """float32 (M,), v, of mean 1."""
    bounded: float = 0.0
    """q."""

    def evened(self, clicks: Tensor, even: float) -> Candidates:
        """With v by the targets' clicks in training, int64 (M,)."""
        weight = (1.0 + clicks) ** -even
        return self._replace(weight=weight / weight.mean())

    def some(self, which: Tensor) -> Candidates:
        """Some of the sessions."""
        scores, popularity, own, sums, share, target, weight = (field[which] for field in self[:-1])
        return Candidates(scores, popularity, own, sums, share, target, weight, self.bounded)


@torch.no_grad()
def candidates(
    score: Scores, counted: Counted, sessions: Sessions, samples: Samples, *, repeats: bool
) -> Candidates:
    """What the loss is computed from, for M samples whose targets lists may contain."""
    random = torch.Generator().manual_seed(0)
    parts = []
    each = counted.popularity.shape[0] * (len(counted.tables) + 4)
    for batch in batches(sessions, samples, batch_size=max(1, min(BATCH, MOST_SCORES // each))):
        parts.append(_of_batch(batch, score(batch).float(), counted, repeats, random))
    width = max(part[0].shape[1] for part in parts)
    order = torch.cat([part[-1] for part in parts]).argsort()
    scores, popularity, own, sums, share = (
        torch.cat([_wider(part[number], width, value) for part in parts])[order]
        for number, value in enumerate((0.0, 0.0, 0.0, 0.0, -torch.inf))
    )
    target = torch.cat([part[5] for part in parts])[order]
    return Candidates(scores, popularity, own, sums, share, target, torch.ones(len(target)))


def _of_batch(
    batch: Batch, scores: Tensor, counted: Counted, repeats: bool, random: torch.Generator
) -> tuple[Tensor, ...]:
    """Of a batch's candidates: scores, popularity, own, sums, share, the targets' places, which they are."""
    items, mask = batch.items.to(scores.device), batch.mask.to(scores.device)
    sums = counted.sums(items, mask).cpu()
    scores = scores.cpu()
    if not repeats:
        scores = without_own(scores, batch.items, batch.mask)
    may = torch.isfinite(scores)
    scores = scores - scores.logsumexp(1, keepdim=True)  # so that those of all models are alike
    number = scores.shape[1]
    own = _own(batch, number)
    whole = ((sums > 0).any(2) | (own > 0).any(2)) & may
    whole.scatter_(1, scores.topk(min(BEST, number)).indices, True)
    drawn = torch.randint(number, (len(scores), RANDOM), generator=random)
    rest = may & ~whole
    some = torch.zeros_like(rest).scatter_(1, drawn, True) & rest
    each = rest.sum(1, keepdim=True) / some.sum(1, keepdim=True).clamp(min=1)
    share = torch.where(some, each, 0.0).masked_fill(whole & may, 1.0)
    target = (batch.target - 1).unsqueeze(1)
    share.scatter_(1, target, 1.0)
    count = int((share > 0).sum(1).max())
    share, where = share.topk(count)
    place = (where == target).long().argmax(1)
    popularity = counted.popularity.cpu()[where]
    sums, own = (one.gather(1, where.unsqueeze(2).expand(-1, -1, one.shape[2])) for one in (sums, own))
    scores = scores.gather(1, where).masked_fill(share == 0, 0.0)
    return scores, popularity, own, sums, share.log(), place, batch.index


def _own(batch: Batch, size: int) -> Tensor:
    """`Candidates.own` of a batch and the whole catalogue, float (B, N, 2)."""
    items, mask = batch.items - 1, batch.mask
    earlier = torch.zeros(len(items), size).scatter_(1, torch.where(mask, items, items[:, :1]), 1.0)
    last = torch.zeros_like(earlier).scatter_(1, items.gather(1, mask.sum(1, keepdim=True) - 1), 1.0)
    return torch.stack([last, earlier * (1 - last)], 2)


def _wider(field: Tensor, width: int, value: float) -> Tensor:
    """The field (B, C, ...) with more columns of one value, up to `width`."""
    shape = (field.shape[0], width - field.shape[1], *field.shape[2:])
    return torch.cat([field, field.new_full(shape, value)], 1)
