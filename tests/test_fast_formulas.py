"""What models compute on a CPU where oneDNN wins is their formula, in values and in gradients.

The formula stands here, or in the models' plain PyTorch, and is computed in float64.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.sr_gnn import GatedGraph
from llm4sbr.fast import backbones, fusion, nodes

sys.path.insert(0, str(Path(__file__).parent))
from against_double import B, D, E, N, P, T, batch, close, in_double, linear, numbers, same, where_it_wins

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


# The models' formulas


def test_tanh() -> None:
    same(backbones.tanh, torch.tanh, numbers(B, D))


def soft_attention_of(bias: bool) -> None:
    mask = batch()[1]

    def fast(keys, values, query, weight, vector, *bias):
        to_key, attention = linear(weight, *bias), linear(vector)
        return backbones.soft_attention(keys, values, query, mask, to_key, attention)

    def plain(keys, values, query, weight, vector, *bias):
        hidden = torch.sigmoid(functional.linear(keys, weight, *bias) + query.unsqueeze(1))
        return (hidden @ vector[0] * mask).unsqueeze(2).mul(values).sum(1)

    given = [numbers(*shape) for shape in [(B, T, D), (B, T, D), (B, D), (D, D), (1, D)]]
    same(fast, plain, *given, *([numbers(D)] if bias else []))


def test_soft_attention() -> None:
    soft_attention_of(bias=True)
    soft_attention_of(bias=False)


def node_attention_of(bias: bool) -> None:
    items, mask = batch()
    found = nodes.session_nodes(items, mask)

    def fast(states, query, weight, vector, *bias):
        return backbones.node_attention(states, query, found, linear(weight, *bias), linear(vector))

    def plain(states, query, weight, vector, *bias):
        states = states[found.clicks]  # of every click
        hidden = torch.sigmoid(functional.linear(states, weight, *bias) + query.unsqueeze(1))
        return (hidden @ vector[0] * mask).unsqueeze(2).mul(states).sum(1)

    given = [numbers(*shape) for shape in [(len(found.item), D), (B, D), (D, D), (1, D)]]
    same(fast, plain, *given, *([numbers(D)] if bias else []))


def test_node_attention() -> None:
    node_attention_of(bias=True)
    node_attention_of(bias=False)


def gated_graph_of(steps: int, count: int) -> None:
    torch.manual_seed(0)
    items, mask = batch(count)
    fast = GatedGraph(D, steps=steps)
    for parameter in fast.parameters():
        nn.init.normal_(parameter)
    plain = copy.deepcopy(fast).double().eval()  # one that does not train takes the dense graph
    table = numbers(N, D)
    tables = table.clone().requires_grad_(), table.double().requires_grad_()
    towards = numbers(count, T, D, seed=2) * mask.unsqueeze(2)
    with where_it_wins():
        ours = fast(items, mask, tables[0])
        ours.backward(towards)
    with in_double():
        theirs = plain(items, mask, tables[1])
    theirs.backward(towards.double())
    close(ours[mask], theirs[mask])
    for one, two in zip([tables[0], *fast.parameters()], [tables[1], *plain.parameters()], strict=True):
        close(one.grad, two.grad)


def test_gated_graph() -> None:
    gated_graph_of(steps=1, count=B)
    gated_graph_of(steps=2, count=B)


def test_nodes() -> None:
    """Of each session its distinct items in order, and nothing behind them that would count."""
    items, mask = batch(5)
    found = nodes.session_nodes(items, mask)
    rows = [[item for item in row if item] for row in items.tolist()]
    expected = [(row, item, rows[row].count(item)) for row in range(5) for item in sorted(set(rows[row]))]
    named = found.distinct[found.item].tolist()
    every = list(zip(found.session.tolist(), named, found.clicked.tolist(), strict=True))
    assert every[: len(expected)] == expected
    assert all(row == 4 and not clicked for row, _, clicked in every[len(expected) :])
    assert len(every) % nodes.ROWS == len(found.distinct) % nodes.ROWS == 0
    assert [named[node] for node in found.last.tolist()] == [row[-1] for row in rows]
    assert torch.equal(found.distinct[found.item[found.clicks]][mask], items[mask])
    assert not found.clicks[~mask].any()
    begins = [sum(row < place for row, *_ in expected) for place in range(5)]
    assert found.offsets.tolist() == [*begins, len(every)]
    ends = zip(found.before.tolist(), found.after.tolist(), strict=True)
    edges = {(found.session[one].item(), named[one], named[two]) for one, two in ends}
    assert edges == {
        (row, one, two) for row in range(5) for one, two in zip(rows[row], rows[row][1:], strict=False)
    }
    assert len(found.before) == len(edges)
    assert set(found.distinct.tolist()) == set(items[mask].tolist())


# The fusion's formulas


def intents_known() -> Tensor:
    """Bool (B, P): of one perspective all but some, of the next one intent alone, of the last none."""
    known = torch.ones(B, P, dtype=torch.bool)
    known[::5, 0] = False
    known[1:, 1] = False
    known[:, 2] = False
    return known


def test_semantic() -> None:
    known, intents = intents_known(), numbers(B, P, E)

    def fast(weight, bias):
        return fusion.semantic(intents, known, linear(weight, bias))

    def plain(weight, bias):
        return functional.linear(intents.double(), weight, bias) * known.unsqueeze(2)

    intents[~known] = 0
    same(fast, plain, numbers(D, E), numbers(D))


def test_gated() -> None:
    def fast(behavioural, semantic, gate, weight):
        return fusion.gated(behavioural, semantic, gate, linear(weight))

    def plain(behavioural, semantic, gate, weight):
        scale = (torch.sigmoid(behavioural + semantic) * gate).sum(2, keepdim=True)
        return functional.linear((behavioural * scale).flatten(1), weight)

    same(fast, plain, numbers(B, P, D), numbers(B, P, D, seed=3), numbers(P, D), numbers(D, P * D))


def cross_entropy_of(size: float) -> None:
    target = torch.arange(B) % N
    same(
        lambda scores: fusion.cross_entropy(scores, target),
        lambda scores: functional.cross_entropy(scores, target),
        numbers(B, N) * size,
    )


def test_cross_entropy() -> None:
    cross_entropy_of(1)
    cross_entropy_of(200)  # whose exponentials are beyond float32


def test_agreement() -> None:
    known = intents_known()
    for place in range(2):  # alignment, uniformity
        same(
            lambda *given, place=place: fusion.agreement(*given, known)[place],
            lambda *given, place=place: agreement(*given, known)[place],
            numbers(B, P, D),
            numbers(B, P, D, seed=3),
        )


def agreement(behavioural: Tensor, semantic: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Wang et al. 2022, Eqs. 5 and 6, of each perspective of which at least two intents are known."""
    alignment = uniformity = behavioural.new_zeros(())
    for place in range(P):
        rows = known[:, place]
        if rows.sum() < 2:
            continue
        one, two = (functional.normalize(both[rows, place], dim=1) for both in (behavioural, semantic))
        alignment = alignment + (one - two).square().sum(1).mean()
        for unit in (one, two):
            uniformity = uniformity + torch.pdist(unit).square().mul(-2).exp().mean().log() / 2
    return alignment, uniformity
