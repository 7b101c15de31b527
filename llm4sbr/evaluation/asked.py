"""What an LLM's answers change for a baseline that asks about a part of the test samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from llm4sbr.data.batches import Batch
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation import metrics
from llm4sbr.protocols import AskingBaseline, Baseline


class Answers(NamedTuple):
    """The answers that a baseline got."""

    texts: Mapping[int, list[str]]
    """Number of a test sample -> the answers to its prompts; only samples with an answer to each."""
    about: dict[str, Any]
    """What asking took: prompts, tokens, seconds, cost; and what answers could reach."""

    def asked(self, samples: int) -> Tensor:
        """Bool (M,): which samples have answers."""
        found = torch.zeros(samples, dtype=torch.bool)
        found[list(self.texts)] = True
        return found


def asking(baseline: Baseline) -> TypeGuard[AskingBaseline]:
    """Whether a baseline asks an LLM."""
    return bool(getattr(baseline, "asks", False))


def with_answers(baseline: AskingBaseline, answers: Answers) -> Callable[[Batch], Tensor]:
    """Scores float (B, N) of a batch, with the answers to those samples that have some."""

    def score(batch: Batch) -> Tensor:
        scores = baseline.score(batch.items, batch.mask).clone()
        for row, sample in enumerate(batch.index.tolist()):
            if sample in answers.texts:
                items = batch.items[row][batch.mask[row]].tolist()
                scores[row] = baseline.rescored(items, answers.texts[sample])
        return scores

    return score


def compared(found: Mapping[str, Tensor], prepared: Prepared, ks: Sequence[int]) -> dict[str, Any]:
    """Metrics over the samples with answers, with the answers and without them.

    Args:
        found: `ranks` and `alone`, int64 (M,), and `asked`, bool (M,), of the test samples.
        prepared: the data.
        ks: list lengths.

    Returns:
        `with` and `alone`: metric -> mean; `p`: metric -> p-value of their difference.
    """
    asked, test = found["asked"], prepared.samples["test"]
    ranks, alone = found["ranks"][asked], found["alone"][asked]
    groups = torch.searchsorted(prepared.sessions.offsets, test.end, right=True)[asked]
    own, other = metrics.per_sample(ranks, ks), metrics.per_sample(alone, ks)
    return {
        "with": metrics.summary(ranks, ks),
        "alone": metrics.summary(alone, ks),
        "p": metrics.paired_test({name: own[name] - other[name] for name in own}, groups),
    }
