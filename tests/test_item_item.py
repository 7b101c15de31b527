"""The item-item model beside the network: what it adds, without its own sessions, learned and exported."""

from __future__ import annotations

import math

import pytest
import torch

from llm4sbr import registry
from llm4sbr.fast import item_item as fast
from llm4sbr.fusion.item_item import AGES, CrossFit, ItemItem, ItemItemScores
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.exporters import toy_inputs, toy_spec
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.testing.training import equal, record, settings, trained, weights
from llm4sbr.training.cross_fit import FOLDS, cross_fit

N = 12


def random_model(neighbours=4, items=N):
    """Distinct neighbours, some items with fewer than `neighbours`, one with none."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(items, generator=generator)[:neighbours] + 1 for _ in range(items)])
    strengths = torch.rand(items, neighbours, generator=generator)
    for row, left in ((2, 0), (5, 1)):
        ids[row, left:], strengths[row, left:] = 0, 0
    return ItemItem(ids, strengths)


def scores(whole=None, parts=None):
    whole = whole or random_model()
    made = ItemItemScores(N, whole.items.shape[1])
    made.fit(CrossFit(whole, parts or whole, torch.zeros(0, dtype=torch.int64)))
    return made


def by_hand(model, session, log_ages, weight, small):
    """The formula of the module, click by click."""
    sums = [0.0] * N
    for age, item in enumerate(reversed(session)):
        for id, strength in zip(
            model.items[item - 1].tolist(), model.weights[item - 1].tolist(), strict=True
        ):
            if id and age < AGES:
                sums[id - 1] += math.exp(log_ages[age]) * strength
    return torch.tensor([weight * math.log1p(one / small) for one in sums])


SESSIONS = [[1, 2, 6, 1], [3], [4, 4, 4], [*range(1, N + 1), 7, 2]]


def test_scores_are_those_of_the_formula():
    made, model = scores(), random_model()
    with torch.no_grad():
        made.log_ages.copy_(-torch.arange(AGES) / 3)
        made.log_weight.fill_(math.log(1.5))
        made.log_small.fill_(math.log(0.25))
    expected = torch.stack([by_hand(model, one, made.log_ages.tolist(), 1.5, 0.25) for one in SESSIONS])
    torch.testing.assert_close(made(*pad(SESSIONS)), expected)
    with torch.no_grad():
        torch.testing.assert_close(made(*pad(SESSIONS)), expected)


def test_padding_does_not_count():
    made = scores()
    for session, row in zip(SESSIONS, made(*pad(SESSIONS)), strict=True):
        torch.testing.assert_close(made(*pad([session]))[0], row)


def test_what_is_learned_has_the_gradient_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(7, (3, 4, 5), generator=generator)
    entries = torch.rand(3, 4, 5, dtype=torch.float64, generator=generator)
    ages = torch.rand(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    weight, small = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.3, 0.2))
    assert torch.autograd.gradcheck(
        lambda d, w, e: fast.added(columns, entries, d, w, e, 7), (ages, weight, small)
    )


def sample_everything(sessions):
    starts, ends = [], []
    for start, end in zip(sessions.offsets[:-1].tolist(), sessions.offsets[1:].tolist(), strict=True):
        starts += [start] * (end - start - 1)
        ends += range(start + 1, end)
    start, end = torch.tensor(starts), torch.tensor(ends)
    return Samples(start, end, end)


def random_sessions(count=40):
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(2, 6, (count,), generator=generator)
    items = torch.randint(1, N + 1, (int(lengths.sum()),), generator=generator)
    return Sessions(items, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))


def test_a_session_is_scored_without_itself():
    sessions = random_sessions()
    samples = sample_everything(sessions)
    one = cross_fit(sessions, samples, N, neighbours=N)
    changed = sessions.items.clone()
    changed[:2] = torch.tensor([1, 12]) if changed[:2].tolist() != [1, 12] else torch.tensor([2, 11])
    two = cross_fit(Sessions(changed, sessions.offsets), samples, N, neighbours=N)
    fold = int(one.fold[0])
    for k in range(FOLDS):
        rows = slice(k * N, (k + 1) * N)
        same = torch.equal(one.parts.weights[rows], two.parts.weights[rows])
        assert same == (k == fold), f"fold {k} of a session in fold {fold}"
    assert not torch.equal(one.whole.weights, two.whole.weights)


def test_all_samples_of_a_session_are_in_one_fold_and_folds_are_used():
    sessions = random_sessions()
    samples = sample_everything(sessions)
    found = cross_fit(sessions, samples, N, neighbours=3)
    session = torch.searchsorted(sessions.offsets, samples.end, right=True) - 1
    assert all(len(found.fold[session == one].unique()) == 1 for one in session.unique())
    assert set(found.fold.tolist()) == set(range(FOLDS))


def test_nothing_behind_the_last_training_target_is_seen():
    """With the paper's split a session's later clicks are for testing."""
    sessions = random_sessions()
    samples = sample_everything(sessions)
    first = samples.end - samples.start == 1
    cut = Samples(*(tensor[first] for tensor in samples))
    changed = sessions.items.clone()
    for start, end in zip(sessions.offsets[:-1].tolist(), sessions.offsets[1:].tolist(), strict=True):
        changed[start + 2 : end] = 1
    one = cross_fit(sessions, cut, N, neighbours=N)
    two = cross_fit(Sessions(changed, sessions.offsets), cut, N, neighbours=N)
    assert torch.equal(one.whole.weights, two.whole.weights)
    assert torch.equal(one.parts.weights, two.parts.weights)


def test_a_fold_is_scored_with_its_own_part():
    models = [random_model() for _ in range(FOLDS)]
    for number, model in enumerate(models):
        model.weights.mul_(number + 1)
    parts = ItemItem(*(torch.cat(tensors) for tensors in zip(*models, strict=True)))
    made = scores(parts=parts)
    items, mask = pad(SESSIONS)
    fold = torch.tensor([2, 0, 3, 1])
    expected = torch.cat(
        [scores(models[k])(items[[row]], mask[[row]]) for row, k in enumerate(fold.tolist())]
    )
    torch.testing.assert_close(made(items, mask, fold), expected)
    assert not torch.allclose(made(items, mask), expected)


def toy_model(fuser=None, items=N):
    torch.manual_seed(0)
    recipe = Recipe(items, 8, "stamp", neighbours=4)
    if fuser:
        views = ("long", "short")
        recipe = recipe._replace(fuser=fuser, perspectives=views, horizons=views, text_dim=6, predictor=True)
    model = build(recipe)
    if model.rescores:
        model.fuser.fit(torch.nn.functional.normalize(torch.randn(items, 6), dim=1), torch.arange(items))
    whole = random_model(items=items)
    model.item_item.fit(CrossFit(whole, whole, torch.zeros(0, dtype=torch.int64)))
    return recipe, model.eval()


@pytest.mark.parametrize("fuser", [None, *(one.name for one in registry.components("fusers"))])
def test_it_is_added_to_what_the_network_says(fuser):
    _, model = toy_model(fuser)
    items, mask = pad(SESSIONS)
    output = model.represent(items, mask)
    torch.testing.assert_close(output.added, model.item_item(items, mask))
    part, model.item_item = model.item_item, None
    torch.testing.assert_close(output.scores - part(items, mask), model(items, mask))


def test_it_is_saved_with_the_model(tmp_path):
    recipe, model = toy_model()
    save_model(tmp_path, model, recipe=recipe, catalogue="c", facts={})
    batch = pad(SESSIONS)
    assert torch.equal(load_model(tmp_path).model(*batch), model(*batch))


VARIANTS = ((None, "plain"), ("gated", "intents"), ("whitened", "none"), ("whitened", "predictor"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("fuser", "variant"), VARIANTS)
def test_the_exported_graph_adds_it(tmp_path, fuser, variant, precision):
    _, model = toy_model(fuser)
    exporter = registry.create("exporters", "onnx")
    path = tmp_path / "model.onnx"
    sessions = [[1, 2, 6], [3], [4, 4]]
    inputs = toy_inputs(sessions, variant)
    expected = model(inputs["items"], inputs["mask"], inputs.get("intents"), predict=variant == "predictor")
    model.item_item.parts = None
    exporter.export(model, inputs, path, spec=toy_spec(variant, precision=precision))
    ids, found = exporter.load(path).score(**inputs)
    best = expected.topk(5)
    assert torch.equal(ids, best.indices + 1)
    torch.testing.assert_close(found, best.values, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_tensorrt_takes_the_graph(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    from llm4sbr_export.checks import compile_ahead
    from llm4sbr_export.engine import Shapes

    _, model = toy_model("whitened")
    path = tmp_path / "model.onnx"
    spec = toy_spec("intents")
    registry.create("exporters", "onnx").export(model, toy_inputs([[1]], "intents"), path, spec=spec)
    assert compile_ahead(path, Shapes(8, 20))


def test_trained_with_and_without(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",))
    out = trained(run, settings(epochs=1, neighbours=5, counted=()))
    names = {variant: set(weights(out, variant)) for variant in ("plain", "item-item", "llm", "none")}
    part = {name for name in names["item-item"] if name.startswith("item_item.")}
    assert part
    assert names["item-item"] - part == names["plain"]
    assert part <= names["llm"] & names["none"]
    assert {variant: record(out, variant)["recipe"]["neighbours"] for variant in names} == {
        "plain": 0,
        "item-item": 5,
        "llm": 5,
        "none": 5,
    }
    without = trained(run, settings(epochs=1, neighbours=0, counted=()), "without")
    assert not (without / "item-item").exists()
    assert equal(weights(without), weights(out)), "the plain backbone does not depend on it"
