"""MSGAT against the equations of its module, one session at a time, with entmax by bisection."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from formulas import COMPANY, SESSION, layer_norm, linear, sigmoid, softmax, unit, weights_of
from llm4sbr_sequential.entmax import entmax
from llm4sbr_sequential.msgat import MSGAT

from llm4sbr.protocols import Sessions
from llm4sbr.testing.backbones import pad

REMEMBERED = [[2, 5, 5, 3], [6], [1, 4, 2]]


def sparse(z, alpha):
    """Alpha-entmax of a vector: the threshold is halved into an interval."""
    z = (alpha - 1) * np.asarray(z)
    low, high = z.max() - 1, z.max()
    for _ in range(60):
        middle = (low + high) / 2
        enough = (np.maximum(z - middle, 0) ** (1 / (alpha - 1))).sum() >= 1
        low, high = (middle, high) if enough else (low, middle)
    p = np.maximum(z - low, 0) ** (1 / (alpha - 1))
    return p / p.sum()


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(np.minimum(x, 0)) - 1))


def gated(w, session, x):
    """One round of the gated graph network (SR-GNN, Eqs. 1-5), item by item."""
    name, edges, after = "session.gnn", set(pairwise(session)), {}
    for item, own in x.items():
        before = [x[a] for a, b in edges if b == item]
        behind = [x[b] for a, b in edges if a == item]
        zero = np.zeros(len(own))
        into = sum((linear(w, f"{name}.edge_in", one) / len(before) for one in before), zero)
        out = sum((linear(w, f"{name}.edge_out", one) / len(behind) for one in behind), zero)
        message = np.concatenate([into + w[f"{name}.bias_in"], out + w[f"{name}.bias_out"]])
        m = linear(w, f"{name}.from_message", message).reshape(3, -1)
        s = linear(w, f"{name}.from_state", own).reshape(3, -1)
        reset, keep = sigmoid(m[0] + s[0]), sigmoid(m[1] + s[1])
        after[item] = keep * own + (1 - keep) * np.tanh(m[2] + reset * s[2])
    return after


def attended(w, rows, heads):
    """Z, from X with the target's row."""
    name, parts = "session.attention", []
    queries = [np.maximum(linear(w, f"{name}.query", x), 0) for x in rows]
    for head in np.split(np.arange(len(rows[0])), heads):
        alpha = 1 + sigmoid(linear(w, f"{name}.sparsity", queries[-1][head])[0])
        y = []
        for q in queries:
            a = sparse([q[head] @ x[head] / np.sqrt(len(head)) for x in rows], alpha)
            y.append(sum(one * x[head] for one, x in zip(a, rows, strict=True)))
        parts.append(y)
    found = []
    for row in zip(*parts, strict=True):
        y = np.concatenate(row)
        inner = np.maximum(linear(w, f"{name}.inner", y), 0)
        found.append(layer_norm(w, f"{name}.norm", y + linear(w, f"{name}.outer", inner)))
    return found


def intra(w, session, heads):
    """The intra-session channel, s."""
    x = {}
    for item in session:
        last = max(t for t, one in enumerate(session) if one == item)
        position = w["session.positions"][min(len(session) - 1 - last, len(w["session.positions"]) - 1)]
        x[item] = layer_norm(w, "session.norm", np.concatenate([w["items"][item - 1], position]))
    x = gated(w, session, x)
    *z, target = attended(w, [*(x[item] for item in session), np.zeros(len(x[session[0]]))], heads)
    alpha = 1 + sigmoid(linear(w, "session.sparsity", target)[0])
    drive = linear(w, "session.from_target", target)
    hidden = [np.maximum(linear(w, "session.from_state", one) + drive, 0) for one in z]
    a = sparse([(w["session.weight.weight"] @ one)[0] for one in hidden], alpha)
    first = linear(w, "session.gate_last", x[session[-1]])
    gates = [sigmoid(first + linear(w, "session.gate_all", x[item])) for item in session]
    g = sum(one * gate for one, gate in zip(a, gates, strict=True))
    return unit(selu(linear(w, "session.join", np.concatenate([g, target]))))


def inter(w, session, others):
    """The inter-session channel."""
    total, weight = 0, 0
    for other in [session, *others]:
        j = len(set(session) & set(other)) / len(set(session) | set(other))
        total, weight = total + j * sum(w["items"][item - 1] for item in set(other)), weight + j
    return unit(selu(total / weight))


def collaborating(w, session, others, known, *, heads, neighbours):
    """Long, for a session among others, whose v are `known`."""
    v = intra(w, session, heads) + inter(w, session, others)
    best = sorted(known, key=lambda one: -unit(one) @ unit(v))[: neighbours - 1]
    a = softmax(np.array([unit(one) @ unit(v) for one in [v, *best]]))
    return intra(w, session, heads) + sum(one * r for one, r in zip(a, [v, *best], strict=True))


def without(sessions, number):
    return sessions[:number] + sessions[number + 1 :]


def together(w, sessions, heads):
    """v of sessions that are each other's others."""
    return [intra(w, one, heads) + inter(w, one, without(sessions, n)) for n, one in enumerate(sessions)]


def fitted(**options):
    """A model that remembers REMEMBERED, each cut to its last three clicks, and has room for one more."""
    torch.manual_seed(0)
    model = MSGAT(6, 8, memory=4, length=3, positions=4, **options)
    offsets = torch.tensor([0, *np.cumsum([len(one) for one in REMEMBERED])])
    model.fit(Sessions(torch.tensor([item for one in REMEMBERED for item in one]), offsets))
    return model


@pytest.mark.parametrize(("heads", "neighbours"), [(4, 3), (1, 1), (2, 4)])
def test_msgat(heads, neighbours):
    model = fitted(heads=heads, neighbours=neighbours, scale=3.0).eval()
    w = weights_of(model)
    model.eval()
    with torch.no_grad():
        found = model(*pad([SESSION, COMPANY]))
    others = [one[-3:] for one in REMEMBERED]
    known = together(w, others, heads)
    for session, long in zip([SESSION, COMPANY], found.long.numpy(), strict=True):
        expected = collaborating(w, session, others, known, heads=heads, neighbours=neighbours)
        np.testing.assert_allclose(long, expected, atol=1e-5)
    np.testing.assert_allclose(found.short[0].numpy(), unit(w["items"][SESSION[-1] - 1]), atol=1e-6)
    items = model.item_embeddings().detach().numpy()
    np.testing.assert_allclose(items, [3.0 * unit(one) for one in w["items"]], atol=1e-5)


def test_msgat_trains_in_the_company_of_the_batch():
    model = fitted(dropout=0.0).train()
    w = weights_of(model)
    sessions = [SESSION, COMPANY, [1, 2], [3]]
    found = model(*pad(sessions)).long.detach().numpy()
    known = together(w, sessions, 4)
    for number, session in enumerate(sessions):
        others = without(sessions, number), without(known, number)
        expected = collaborating(w, session, *others, heads=4, neighbours=3)
        np.testing.assert_allclose(found[number], expected, atol=1e-5)


def test_msgat_remembers_sessions_evenly_and_their_ends():
    assert fitted().memory.tolist() == [[5, 5, 3], [6, 0, 0], [1, 4, 2], [0, 0, 0]]
    model = MSGAT(9, 8, memory=3, length=2)
    model.fit(Sessions(torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9]), torch.tensor([0, 1, 2, 3, 5, 6, 9])))
    assert model.memory.tolist() == [[1, 0], [3, 0], [6, 0]]


def test_msgat_reads_its_memory_again_with_the_weights_it_loads():
    one, other = fitted().eval(), MSGAT(6, 8, memory=4, length=3, positions=4).eval()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(*pad([SESSION])).long, other(*pad([SESSION])).long)


def test_msgat_without_a_memory_has_itself_for_a_neighbour():
    torch.manual_seed(0)
    model = MSGAT(6, 8).eval()
    w = weights_of(model)
    model.eval()
    expected = 2 * intra(w, SESSION, 4) + inter(w, SESSION, [])
    np.testing.assert_allclose(model(*pad([SESSION])).long[0].detach().numpy(), expected, atol=1e-5)


# Entmax


@pytest.mark.parametrize("alpha", [1.01, 1.2, 1.5, 1.9, 1.99])
def test_entmax(alpha):
    rows = 3 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(20, 7, dtype=torch.bool)
    mask[:, 5:] = False
    found = entmax(rows, mask, torch.tensor([[alpha]])).numpy()
    assert (found[:, 5:] == 0).all()
    expected = [sparse(row, alpha) for row in rows[:, :5].double().numpy()]
    np.testing.assert_allclose(found[:, :5], expected, atol=2e-6)


def test_entmax_by_hand():
    # alpha = 1.5: p = [(z / 2 - tau)]^2; for z = (2, 0), tau = 0 gives p = (1, 0); for (1, 0) with
    # a = 1/2 - tau, (1/2 - tau)^2 + tau^2 = 1 has tau = (1 - sqrt 7) / 4.
    tau = (1 - 7**0.5) / 4
    found = entmax(torch.tensor([[2.0, 0], [1, 0]]), torch.tensor(True), torch.tensor(1.5).view(1, 1))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0], [(0.5 - tau) ** 2, tau**2]]))


def test_entmax_has_the_gradients_of_its_formula():
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.double, requires_grad=True)
    alpha = (1.2 + 0.6 * torch.rand(4, 1, dtype=torch.double)).requires_grad_()
    mask = torch.arange(6) < torch.tensor([[4], [6], [1], [6]])
    assert torch.autograd.gradcheck(lambda z, a: entmax(z, mask, a), (logits, alpha))


def test_entmax_stays_finite_where_alpha_saturates():
    logits = (100 * torch.randn(3, 5)).requires_grad_()
    alpha = torch.tensor([[1.0], [2.0], [1.5]], requires_grad=True)
    found = entmax(logits, torch.ones(3, 5, dtype=torch.bool), alpha)
    found.square().sum().backward()
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    assert logits.grad.isfinite().all()
    assert alpha.grad.isfinite().all()
