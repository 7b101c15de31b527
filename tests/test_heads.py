"""From queries to the K best items: exact, and by way of a smaller table."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr_export.checks import Shapes
from llm4sbr_export.heads import COARSE, Exact, Integers, ReRanked, without

RTX = pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="needs the extra rtx")
PROFILE = Shapes(64, 50)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_only_what_was_clicked_is_left_out_and_only_if_asked(session, exclude):
    scores = torch.arange(9.0).unsqueeze(0)
    clicked = torch.tensor([session]) - 1
    found = without(scores, clicked, torch.tensor([[exclude]]))[0]
    for item in range(1, 10):
        expected = -torch.inf if exclude and item in session else float(item - 1)
        assert found[item - 1] == expected


@pytest.mark.parametrize("precision", COARSE)
def test_candidates_give_the_exact_list(precision):
    """Of 5,000 items the first pass keeps a few; the list and its scores are those of float32."""
    torch.manual_seed(0)
    exact = Exact([torch.randn(5000, 24), torch.randn(5000, 8)])
    queries = [torch.randn(16, 24) * 0.01, torch.randn(16, 8) * 0.01]
    clicked, exclude = torch.randint(5000, (16, 3)), torch.ones(16, 1, dtype=torch.bool)
    largest = max(float(query.abs().max()) for query in queries)
    head = ReRanked(exact, precision, k=20, query_range=largest)
    assert head.count == {"int8": 64, "fp16": 64, "qdq": 200}[precision]
    values, rows = head(queries, clicked, exclude, 20)
    best, expected = exact(queries, clicked, exclude, 20)
    assert torch.equal(rows, expected)
    torch.testing.assert_close(values, best)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("precision", [None, *COARSE])
def test_what_a_fuser_adds_to_own_items(precision, exclude):
    """Once per item, in the exact pass: 4 is first and has its 3 taken off; 2 was clicked twice."""
    exact = Exact([torch.tensor([[1.0], [2.0], [5.0], [6.0]])], repeats=torch.tensor(-3.0))
    head = ReRanked(exact, precision, k=4) if precision else exact
    clicked = torch.tensor([[3, 1, 1]])
    values, rows = head([torch.ones(1, 1)], clicked, torch.tensor([[exclude]]), 4)
    if exclude:
        assert rows[0, :2].tolist() == [2, 0]
        assert values[0].tolist() == [5, 1, -torch.inf, -torch.inf]
    else:
        assert rows[0].tolist() == [2, 3, 0, 1]
        assert values[0].tolist() == [5, 3, 1, -1]


def test_a_column_of_large_numbers_leaves_the_others_their_bits():
    """Titles beside the logarithm of clicks, as `whitened` has them."""
    torch.manual_seed(0)
    table = torch.cat([torch.randn(5000, 64) * 0.05, torch.randn(5000, 1).abs() * 8], 1)
    query = torch.cat([torch.randn(64, 64) * 20, torch.full((64, 1), 0.1)], 1)
    best = (query @ table.T).topk(20).indices
    places = Integers(table)(query).argsort(1, descending=True).argsort(1).gather(1, best)
    assert int(places.max()) < 40


def test_integers_do_not_depend_on_company():
    """A session with tiny numbers is rounded by its own scale, whoever else is in the batch."""
    torch.manual_seed(0)
    first = ReRanked(Exact([torch.randn(500, 16)]), "int8", k=5).first
    small, large = torch.randn(1, 16) * 1e-4, torch.randn(1, 16) * 1e4
    torch.testing.assert_close(first(torch.cat([small, large]))[:1], first(small))


def test_a_zero_query_is_no_number_problem():
    head = ReRanked(Exact([torch.randn(500, 16)]), "int8", k=5)
    values, _ = head([torch.zeros(1, 16)], torch.zeros(1, 1, dtype=torch.long), torch.tensor([[False]]), 5)
    assert (values == 0).all()
