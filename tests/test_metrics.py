"""Ranks and what is derived from them, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.errors import TrainingError
from llm4sbr.evaluation.metrics import (
    hit_rate,
    ndcg,
    over_seeds,
    paired_test,
    per_sample,
    ranks,
    reciprocal_rank,
    summary,
)


def test_ranks_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.1, 0.9, 0.5]])
    assert ranks(scores, torch.tensor([1, 2, 3])).tolist() == [3, 1, 2]


def test_ties_count_against_the_model():
    scores = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]])
    assert ranks(scores, torch.tensor([2, 3])).tolist() == [3, 4]


def test_constant_scores_are_no_better_than_chance():
    scores = torch.zeros(50, 10)
    found = ranks(scores, torch.arange(50) % 10 + 1)
    assert (found == 10).all()
    assert summary(found, [5])["HR@5"] == 0


def test_not_a_number_is_an_error():
    scores = torch.zeros(3, 4)
    scores[2, 1] = math.nan
    with pytest.raises(TrainingError, match="sample 2 are not numbers"):
        ranks(scores, torch.tensor([1, 1, 1]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6), st.integers(1, 4)
)
def test_rank_is_one_plus_those_not_below(rows, target):
    found = ranks(torch.tensor(rows, dtype=torch.float32), torch.full((len(rows),), target))
    expected = [
        1 + sum(value >= row[target - 1] for place, value in enumerate(row) if place != target - 1)
        for row in rows
    ]
    assert found.tolist() == expected


def test_metrics_by_hand():
    found = torch.tensor([1, 3, 6, 20])
    assert hit_rate(found, 5).tolist() == [1, 1, 0, 0]
    assert reciprocal_rank(found, 5).tolist() == pytest.approx([1, 1 / 3, 0, 0])
    # log2(2) = 1, log2(4) = 2, log2(7)
    assert ndcg(found, 10).tolist() == pytest.approx([1, 1 / 2, 1 / math.log2(7), 0])
    assert summary(found, [20])["MRR@20"] == pytest.approx((1 + 1 / 3 + 1 / 6 + 1 / 20) / 4)
    assert list(per_sample(found, [5, 10])) == ["HR@5", "MRR@5", "NDCG@5", "HR@10", "MRR@10", "NDCG@10"]
    assert summary(torch.zeros(0, dtype=torch.int64), [5])["HR@5"] == 0


def test_over_seeds():
    # Deviations -1, 0, 1; sample variance (1 + 0 + 1) / 2 = 1.
    assert over_seeds([2, 3, 4]) == {"mean": 3, "std": 1, "values": [2, 3, 4]}
    assert over_seeds([2])["std"] == 0


def test_paired_test_by_enumeration():
    # Differences 1, 1, 1, 1: of the 16 sign vectors only all-plus and all-minus are as extreme: p = 2/16.
    difference = torch.ones(4, dtype=torch.float64)
    p = paired_test({"one": difference}, torch.arange(4), flips=20_000)["one"]
    assert p == pytest.approx(2 / 16, abs=0.01)


def test_paired_test_takes_sessions_as_one():
    # Ten samples of two sessions are two coins: the smallest p is 2/4, whatever the number of samples.
    difference = torch.ones(10, dtype=torch.float64)
    groups = torch.arange(10) // 5
    assert paired_test({"one": difference}, groups)["one"] == pytest.approx(0.5, abs=0.02)
    assert paired_test({"one": difference}, torch.arange(10))["one"] < 0.01


def test_paired_test_without_a_difference():
    zero = torch.zeros(30, dtype=torch.float64)
    p = paired_test({"none": zero, "some": zero + 1}, torch.arange(30))
    assert p["none"] == 1
    assert p["some"] == pytest.approx(1 / 10_000)
    assert paired_test({"empty": torch.zeros(0)}, torch.zeros(0, dtype=torch.int64)) == {"empty": 1}


def test_paired_test_is_calibrated():
    """Under the hypothesis p-values are uniform: about a tenth lie below 0.1."""
    random = np.random.default_rng(3)
    differences = {i: torch.from_numpy(random.normal(size=40)) for i in range(400)}
    p = np.array(list(paired_test(differences, torch.arange(40), flips=999).values()))
    assert 0.06 < (p < 0.1).mean() < 0.15
    assert abs(p.mean() - 0.5) < 0.06


def test_paired_test_repeats_itself():
    difference = {"a": torch.randn(200, dtype=torch.float64)}
    assert paired_test(difference, torch.arange(200)) == paired_test(difference, torch.arange(200))
