"""What an LLM's answers change for a baseline that asks about a part of the test samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from llm4sbr.data.batches import Batch
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation import metrics
from llm4sbr.protocols import Baseline, Catalogue

Ask = Callable[[Sequence[str]], list[str | None]]
"""Puts prompts to the LLM, through the answer cache and within the budget; None where there is no answer."""


@runtime_checkable
class AskingBaseline(Baseline, Protocol):
    """A baseline that asks an LLM about each session; its class has `asks = True`.

    `score` is what it does without answers, such as the list of the retriever whose candidates it re-ranks;
    so it is scored for samples that nobody was asked about, and the table compares with it.

    Optional: `over`, the name of what it does without answers; `candidates(items)`, the only items that an
    answer can lift, from which the table knows what no answer can exceed; `reader(llm) -> LLM`, which reads
    something else than text from the LLM, such as logits, under a fingerprint of its own; and
    `learn(ask, sessions)`, called with an `Ask` and the training `Sessions` before anything else is asked,
    together with `learning(sessions) -> int`, the most prompts that `learn` can ask, for the plan.
    """

    asks: bool

    def fit_catalogue(self, catalogue: Catalogue, *, repeats: bool) -> None:
        """Take over the items' texts, after `fit`; `repeats`: lists may contain the session's own items.

        Raises:
            ConfigError: the catalogue does not fit the options, such as fewer items than candidates.
        """
        ...

    def prompts(self, items: Sequence[int]) -> list[str]:
        """The prompts about a session, catalogue ids 1..N, oldest first."""
        ...

    def rescored(self, items: Sequence[int], answers: Sequence[str]) -> Tensor:
        """float32 (N,): the session's scores with the answers to its prompts, in their order."""
        ...


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


def together(
    ranks: Mapping[str, Sequence[Tensor]], answered: Mapping[str, Tensor], ks: Sequence[int]
) -> dict[str, Any]:
    """Metrics of all rows over the samples that some baseline has answers to.

    Args:
        ranks: row -> int64 (M,) per seed.
        answered: baseline -> bool (M,); those without any answer are left out.
        ks: list lengths.

    Returns:
        `samples`, their number, and `metrics`: row -> metric -> mean over samples and seeds. Empty if nobody
        was asked.
    """
    some = [one for one in answered.values() if bool(one.any())]
    if not some:
        return {}
    common = torch.stack(some).any(0)
    means = {}
    for name, seeds in ranks.items():
        found = [metrics.summary(one[common], ks) for one in seeds]
        means[name] = {key: sum(one[key] for one in found) / len(found) for key in found[0]}
    return {"samples": int(common.sum()), "metrics": means}
