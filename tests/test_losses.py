"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from llm4sbr.fast import fusion
from llm4sbr.fusion.losses import agreement, joint_loss
from llm4sbr.fusion.model import Output
from llm4sbr.protocols import Encoded

# Unit vectors along the axes; lengths other than 1 must not matter.
EAST, NORTH, WEST = [2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]


@pytest.fixture(autouse=True, params=["plain", "by hand"])
def way(request, monkeypatch):
    """Every test runs the formula and what its gradients are written out for."""
    monkeypatch.setattr(fusion, "usable", lambda _: request.param == "by hand")


def column(*rows):
    """(B, 1, D): one perspective."""
    return torch.tensor(rows).unsqueeze(1)


def every(vectors):
    return torch.ones(vectors.shape[:2], dtype=torch.bool)


def alignment(*given):
    return agreement(*given)[0]


def uniformity(*given):
    return agreement(*given)[1]


def test_alignment_by_hand():
    # Squared distances of unit vectors: east-east 0, east-north 2, east-west 4; their mean is 2.
    behavioural = column(EAST, EAST, EAST)
    semantic = column(EAST, NORTH, WEST)
    assert alignment(behavioural, semantic, every(semantic)).item() == pytest.approx(2.0)


def test_uniformity_by_hand():
    # Behavioural pairs: d^2 = 2 (east-north), 4 (east-west), 2 (north-west).
    # Semantic vectors are all equal: d^2 = 0, the mean of exp(0) is 1, its log 0.
    behavioural = column(EAST, NORTH, WEST)
    semantic = column(NORTH, NORTH, NORTH)
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3) / 2
    assert uniformity(behavioural, semantic, every(semantic)).item() == pytest.approx(expected, rel=1e-5)


def test_perspectives_are_summed():
    one = column(EAST, EAST, EAST), column(EAST, NORTH, WEST)
    two = tuple(torch.cat([part, part], 1) for part in one)
    for loss in (alignment, uniformity):
        assert loss(*two, every(two[0])).item() == pytest.approx(2 * loss(*one, every(one[0])).item())


def test_only_sessions_with_an_intent_take_part():
    behavioural = column(EAST, NORTH, WEST, NORTH)
    semantic = column(NORTH, EAST, EAST, [0.0, 0.0])
    known = torch.tensor([[True], [True], [True], [False]])
    for loss in (alignment, uniformity):
        expected = loss(behavioural[:3], semantic[:3], known[:3])
        torch.testing.assert_close(loss(behavioural, semantic, known), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_are_skipped(count):
    behavioural = column(EAST, NORTH).requires_grad_()
    known = torch.arange(2).unsqueeze(1) < count
    semantic = (column(NORTH, WEST) * known.unsqueeze(2)).requires_grad_()
    for loss in (alignment, uniformity):
        value = loss(behavioural, semantic, known)
        assert value.item() == 0
        value.backward()
    assert not behavioural.grad.any()
    assert not semantic.grad.any()


def test_no_intent_leaves_finite_gradients():
    behavioural = torch.randn(4, 2, 3, requires_grad=True)
    semantic = torch.randn(4, 2, 3)
    semantic[2:] = 0
    semantic.requires_grad_()
    known = torch.tensor([True, True, False, False]).unsqueeze(1).expand(-1, 2)
    (alignment(behavioural, semantic, known) + uniformity(behavioural, semantic, known)).backward()
    assert behavioural.grad.isfinite().all()
    assert semantic.grad.isfinite().all()
    assert not behavioural.grad[2:].any()
    assert behavioural.grad[:2].any()


def test_gradients_are_those_of_the_formulas():
    generator = torch.Generator().manual_seed(0)
    behavioural, semantic = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=generator)
    known = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()  # 5, 3 and 1 of 5
    given = (behavioural.requires_grad_(), semantic.requires_grad_())
    assert torch.autograd.gradcheck(lambda *both: agreement(*both, known), given)


def test_two_sessions_far_apart_among_strangers(way):
    # A pair is exp(-8) of a pair of equals; what the 98 others would add must not drown it.
    vectors = torch.zeros(100, 1, 2)
    vectors[:, 0, 0] = 1
    vectors[1] = -1 * vectors[1]
    known = (torch.arange(100) < 2).unsqueeze(1)
    assert uniformity(vectors, vectors, known).item() == pytest.approx(-8, rel=1e-5)


def test_both_ways_give_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    behavioural, semantic = torch.randn(2, 30, 2, 8, generator=generator)
    known = torch.rand(30, 2, generator=generator) < 0.8
    semantic = semantic * known.unsqueeze(2)
    found = []
    for usable in (True, False):
        monkeypatch.setattr(fusion, "usable", lambda _, usable=usable: usable)
        given = [vectors.clone().requires_grad_() for vectors in (behavioural, semantic)]
        both = agreement(*given, known)
        (both[0] + 0.3 * both[1]).backward()
        found.append([*both, *(vectors.grad for vectors in given)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_equal_vectors_leave_finite_gradients():
    vectors = torch.ones(3, 1, 4, requires_grad=True)
    uniformity(vectors, vectors * 2, every(vectors)).backward()
    assert vectors.grad.isfinite().all()


def test_cross_entropy_written_out():
    generator = torch.Generator().manual_seed(0)
    scores = 30 * torch.randn(5, 40, dtype=torch.float64, generator=generator)
    target = torch.tensor([0, 39, 7, 7, 1])
    given = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    losses = fusion.cross_entropy(given[0], target), functional.cross_entropy(given[1], target)
    for loss in losses:
        (3 * loss).backward()
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(given[0].grad, given[1].grad)


def test_cross_entropy_of_a_hopeless_target():
    scores = torch.tensor([[0.0, 400.0, 0.0]], requires_grad=True)  # its probability is 0 in float32
    loss = fusion.cross_entropy(scores, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 400
    assert scores.grad.tolist() == [[-1, 1, 0]]


def output(**changes):
    # Two sessions, two items, scores 0: the softmax is 1/2 everywhere, so the cross entropy is log 2.
    vectors = torch.zeros(2, 2)
    base = Output(torch.zeros(2, 2), Encoded(vectors, vectors))
    return base._replace(**changes)


def test_plain_model_has_cross_entropy_only():
    losses = joint_loss(output(), torch.tensor([1, 2]), tau=0.1)
    assert losses.total.item() == pytest.approx(math.log(2))
    assert losses.recommendation.item() == pytest.approx(math.log(2))
    assert losses.alignment.item() == losses.uniformity.item() == 0


def test_joint_loss_by_hand():
    # Alignment: east-north twice, 2. Uniformity: behavioural east-west exp(-8), semantic equal exp(0).
    behavioural, semantic = column(EAST, WEST), column(NORTH, NORTH)
    made = output(behavioural=behavioural, semantic=semantic, known=every(semantic))
    losses = joint_loss(made, torch.tensor([1, 2]), tau=0.1)
    assert losses.alignment.item() == pytest.approx(2)
    assert losses.uniformity.item() == pytest.approx(-4)
    assert losses.total.item() == pytest.approx(math.log(2) + 0.1 * (2 - 4))


def test_backbones_own_loss_is_added():
    vectors = torch.zeros(2, 2)
    made = output(encoded=Encoded(vectors, vectors, torch.tensor(3.0)))
    assert joint_loss(made, torch.tensor([1, 2]), tau=0.1).total.item() == pytest.approx(math.log(2) + 3)


def test_target_is_a_catalogue_id():
    scores = torch.tensor([[9.0, 0.0, 0.0]])
    vectors = torch.zeros(1, 2)
    made = Output(scores, Encoded(vectors, vectors))
    assert (
        joint_loss(made, torch.tensor([1]), tau=0).total
        < 0.01
        < joint_loss(made, torch.tensor([2]), tau=0).total
    )
