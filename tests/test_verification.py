"""An artefact that answers otherwise than the trained model is told from one that does not."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from llm4sbr.data.batches import sample_keys
from llm4sbr.errors import ExportError
from llm4sbr.exporting.verification import Reference, verify
from llm4sbr.protocols import Samples, Sessions
from llm4sbr_export.checks import Shapes

RTX = pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="needs the extra rtx")
PROFILE = Shapes(64, 50)


class Fixed:
    provider = "cpu"

    def __init__(self, change=lambda ids, scores: (ids, scores)):
        self.change = change

    def score(self, *, items, mask, exclude_seen):
        full = SCORES.expand(len(items), -1)
        if exclude_seen.any():
            full = full.scatter(1, torch.where(mask, items, items[:, :1]) - 1, -torch.inf)
        best = full.topk(3)
        return self.change(best.indices + 1, best.values)


SCORES = torch.tensor([[5.0, 4.0, 3.0, 3.0, 1.0, 0.5, 0.25, 0.0]])


def judged(change, *, exact=True, targets=(1, 2)):
    first, second = targets
    sessions = Sessions(torch.tensor([8, 7, first, 8, 6, second]), torch.tensor([0, 3, 6]))
    start, end = torch.tensor([0, 3]), torch.tensor([2, 5])
    samples = Samples(start, end, sample_keys(sessions, start, end))
    reference = Reference(
        lambda inputs: SCORES.expand(len(inputs["items"]), -1),
        lambda batch: {"items": batch.items, "mask": batch.mask},
    )
    return verify(Fixed(change), reference, sessions=sessions, samples=samples, k=3, exact=exact)


def test_an_equal_artefact_passes():
    found = judged(lambda ids, scores: (ids, scores))
    assert (found["lists"], found["lists_that_agree"], found["max_difference"]) == (2, 2, 0)
    assert found["metrics"]["HR@3"]["trained"] == 1.0  # targets 1 and 2 stand first and second
    assert found["metrics"]["MRR@3"]["trained"] == 0.75


def test_items_that_tie_stand_for_each_other():
    """Items 3 and 4 score the same, so a list that ends with either is right."""
    for tied in (3, 4):
        swapped = judged(
            lambda ids, scores, tied=tied: (
                torch.where(torch.isin(ids, torch.tensor([3, 4])), tied, ids),
                scores,
            )
        )
        assert swapped["lists_that_agree"] == 2


@pytest.mark.parametrize("tied", [3, 4])
def test_another_order_of_what_ties_is_no_change_of_the_metrics(tied):
    """Of the targets 3 and 4 the list has one, which is a matter of taste."""

    def swapped(ids, scores):
        return torch.where(torch.isin(ids, torch.tensor([3, 4])), tied, ids), scores

    found = judged(swapped, targets=(3, 3))
    assert found["metrics"]["HR@3"]["change"] == found["metrics"]["MRR@3"]["change"] == 0


def test_another_order_of_what_does_not_tie_is_a_change_of_the_metrics():
    with pytest.raises(ExportError, match="a metric changes by"):
        judged(lambda ids, scores: (ids[:, [1, 0, 2]], scores[:, [1, 0, 2]]), targets=(1, 1))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda ids, scores: (ids, scores + 0.01), "scores differ by up to 0.002"),
        (lambda ids, scores: (ids, scores * torch.nan), "scores differ by up to inf"),
        (lambda ids, scores: (torch.where(ids == 3, 5, ids).where(ids != 4, 5), scores), "scores differ"),
        (lambda ids, scores: (ids[:, [0, 0, 2]], scores[:, [0, 0, 2]]), "only 0.00% of the lists agree"),
    ],
)
def test_other_answers_fail(change, text):
    with pytest.raises(ExportError, match=text):
        judged(change)
