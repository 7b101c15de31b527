"""S2-DHCN against its paper's equations in NumPy: dense incidence matrices, one session, one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.backbones.global_graph import hypergraph
from llm4sbr.backbones.s2_dhcn import S2DHCN, jaccard
from llm4sbr.errors import StoreError
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.protocols import Sessions
from llm4sbr.testing.backbones import pad

ITEMS = 6
TRAINING = [[1, 2, 3, 2], [2, 4], [5], [4, 1, 5]]
"""Item 6 is in no session."""
SESSION = [2, 6, 2, 4]
BATCH = [SESSION, [1, 2, 3], [5, 5], [2, 4, 6, 1, 3]]


def flat(lists):
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return Sessions(torch.tensor([item for one in lists for item in one], dtype=torch.int64), offsets)


def fitted(**options):
    torch.manual_seed(0)
    model = S2DHCN(ITEMS, 8, **options)
    model.fit(flat(TRAINING))
    return model


def numpy_weights(model):
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def convolved(table, lists, layers):
    """1 / (L + 1) sum_l (D^-1 H B^-1 H^T)^l X_0, with an incidence matrix; no session, no division."""
    h = np.array([[float(item in session) for session in lists] for item in range(1, len(table) + 1)])
    by_item = np.diag(1 / np.maximum(h.sum(1), 1))
    by_session = np.diag(1 / np.maximum(h.sum(0), 1))
    every = [table]
    for _ in range(layers):
        every.append(by_item @ h @ by_session @ h.T @ every[-1])
    return np.mean(every, 0)


def soft_attention(w, clicks):
    """The session's vector from its items' rows, counted from the end."""
    mean = np.mean(clicks, 0)
    result = np.zeros_like(mean)
    for t, x in enumerate(clicks):
        place = w["readout.positions"][len(clicks) - 1 - t]
        w_1 = np.concatenate([w["readout.from_state.weight"], w["readout.from_position.weight"]], 1)
        z = np.tanh(w_1 @ np.concatenate([x, place]) + w["readout.from_position.bias"])
        inner = w["readout.from_place.weight"] @ z + w["readout.from_place.bias"]
        inner = inner + w["readout.from_mean.weight"] @ mean
        result += (w["readout.attention.weight"][0] @ (1 / (1 + np.exp(-inner)))) * x
    return result


def line_channel(table, batch, layers):
    """The sessions' vectors after convolving over the line graph of the batch."""
    sets = [set(session) for session in batch]
    a = np.array([[len(p & q) / len(p | q) if p is not q else 0 for q in sets] for p in sets])
    a = a + np.eye(len(a))
    every = [np.array([np.mean([table[item - 1] for item in session], 0) for session in batch])]
    for _ in range(layers):
        every.append(np.diag(1 / a.sum(1)) @ a @ every[-1])
    return np.mean(every, 0)


def test_equals_its_paper():
    model = fitted(layers=2).eval()
    w = numpy_weights(model)
    x = convolved(w["items"], TRAINING, 2)
    np.testing.assert_allclose(model.item_embeddings().numpy(), x, atol=1e-5)
    vector = soft_attention(w, [x[item - 1] for item in SESSION])
    encoded = model(*pad(BATCH))
    np.testing.assert_allclose(encoded.long[0].detach().numpy(), vector, atol=1e-5)
    np.testing.assert_allclose(encoded.short[0].detach().numpy(), x[SESSION[-1] - 1], atol=1e-5)
    np.testing.assert_allclose((encoded.long @ encoded.items.T)[0].detach().numpy(), x @ vector, atol=1e-5)
    assert encoded.auxiliary is None


def test_auxiliary_loss_equals_its_paper(monkeypatch):
    order = {len(BATCH): [2, 0, 3, 1], 8: [7, 1, 0, 2, 6, 3, 5, 4]}
    monkeypatch.setattr(torch, "randperm", lambda size, **_: torch.tensor(order[size]))
    model = fitted(layers=2, beta=0.5)
    w = numpy_weights(model)
    x = convolved(w["items"], TRAINING, 2)
    views = np.array([soft_attention(w, [x[item - 1] for item in session]) for session in BATCH])
    lines = line_channel(w["items"], BATCH, 2)
    wrong = views[order[len(BATCH)]][:, order[8]]
    losses = []
    for view, corrupted, line in zip(views, wrong, lines, strict=True):
        agree, differ = (1 / (1 + np.exp(-(one @ line))) for one in (view, corrupted))
        losses.append(-np.log(agree) - np.log(1 - differ))
    found = model(*pad(BATCH)).auxiliary
    np.testing.assert_allclose(found.item(), 0.5 * np.mean(losses), rtol=1e-5)


def test_incidence_by_hand():
    found = hypergraph(flat(TRAINING), num_items=ITEMS)
    assert found.items.tolist() == [0, 1, 2, 1, 3, 4, 0, 3, 4]
    assert found.offsets.tolist() == [0, 3, 5, 6, 9]


lists_of_sessions = st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=7), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(lists_of_sessions, st.integers(0, 3))
def test_convolution_and_its_gradient_equal_dense_matrices(lists, layers):
    torch.manual_seed(0)
    model = S2DHCN(ITEMS, 4, layers=layers).double()
    model.fit(flat(lists))
    dense = torch.from_numpy(convolved(np.eye(ITEMS), lists, layers))
    weight = torch.randn(ITEMS, 4, dtype=torch.float64)
    result = model.item_embeddings()
    torch.testing.assert_close(result, dense @ model.items)
    (gradient,) = torch.autograd.grad((result * weight).sum(), model.items)
    torch.testing.assert_close(gradient, dense.T @ weight)


@settings(max_examples=40, deadline=None)
@given(lists_of_sessions, st.integers(0, 3))
def test_jaccard_equals_sets(batch, extra):
    items, mask = pad(batch, width=max(map(len, batch)) + extra)
    found = jaccard(torch.where(mask, items, 3), mask, num_items=ITEMS)  # whatever padding holds
    expected = [[len(set(p) & set(q)) / len(set(p) | set(q)) for q in batch] for p in batch]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_evaluation_mode_computes_the_convolution_once():
    model = fitted().eval()
    assert model.item_embeddings() is model.item_embeddings()
    assert model.item_embeddings() is model(*pad(BATCH)).items
    assert not model.item_embeddings().requires_grad
    assert model.train().item_embeddings().requires_grad


def test_what_was_folded_follows_the_weights():
    model = fitted().eval()
    other = S2DHCN(ITEMS, 8)
    other.fit(flat(TRAINING))
    other.eval()
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.item_embeddings(), other.item_embeddings())
    model.fit(flat([[1, 6]]))
    assert not torch.equal(model.item_embeddings(), other.item_embeddings())


def test_file_that_does_not_fit_is_refused(tmp_path):
    recipe = Recipe(ITEMS, 8, "s2-dhcn")
    model = build(recipe).eval()
    model.backbone.edges = torch.zeros(2, 2, dtype=torch.int32)
    save_model(tmp_path, model, recipe=recipe, catalogue="c", facts={})
    with pytest.raises(StoreError, match=r"backbone\.edges: the file has \(2, 2\), the model needs \(0,\)"):
        load_model(tmp_path)


def test_hypergraph_is_saved_and_training_can_go_on(tmp_path):
    torch.manual_seed(0)
    recipe = Recipe(ITEMS, 8, "s2-dhcn")
    model = build(recipe)
    model.backbone.fit(flat(TRAINING))
    save_model(tmp_path, model.eval(), recipe=recipe, catalogue="c", facts={})
    loaded = load_model(tmp_path).model
    assert torch.equal(loaded.train()(*pad(BATCH)), model.train()(*pad(BATCH)))
    assert not any("folded" in name for name in model.state_dict())


def test_one_matrix_for_all_layers_gives_the_same(monkeypatch):
    from llm4sbr.backbones import s2_dhcn

    sessions = Sessions(torch.tensor([1, 2, 3, 2, 4, 5, 1, 3]), torch.tensor([0, 3, 6, 8]))
    found = []
    for entries in (0, 1000):
        monkeypatch.setattr(s2_dhcn, "DENSE", entries)
        torch.manual_seed(0)
        model = s2_dhcn.S2DHCN(6, 4).train()
        model.fit(sessions)
        table = model.item_embeddings()
        (table * torch.arange(24.0).view(6, 4)).sum().backward()
        found.append((model.whole is not None, table.detach(), model.items.grad))
    assert [one[0] for one in found] == [False, True]
    torch.testing.assert_close(found[0][1:], found[1][1:])
