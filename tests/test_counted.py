"""What is counted beside a trained model: tables and scores by formula, weights, saved and exported."""

from __future__ import annotations

import math

import pytest
import torch

from llm4sbr import registry
from llm4sbr.baselines.company import lift, near
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError
from llm4sbr.fusion.counted import CLICKS, FADING, NEIGHBOURS, OWN, PRIOR, Counted
from llm4sbr.fusion.item_item import ItemItem, entries_per_item
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.progress import Progress
from llm4sbr.protocols import Sessions
from llm4sbr.stages.refit import refit
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.exporters import toy_inputs, toy_spec
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.testing.training import record, settings, trained, weights
from llm4sbr.training.candidates import Candidates
from llm4sbr.training.counting import fitted, weights_of
from llm4sbr.training.tables import likeness

N = 6
SESSIONS = ([1, 2, 3], [2, 1], [4, 5, 1, 4], [6, 2])


def flat(sessions):
    items = torch.tensor([item for one in sessions for item in one])
    return Sessions(items, torch.tensor([0, *(len(one) for one in sessions)]).cumsum(0))


def test_near_is_the_formula():
    expected = torch.zeros(N, N)
    for session in SESSIONS:
        for p, i in enumerate(session):
            for q, j in enumerate(session):
                if p != q:
                    expected[i - 1, j - 1] += len(session) ** -0.5 * math.exp(-abs(p - q) / 2)
    torch.testing.assert_close(torch.from_numpy(near(flat(SESSIONS), N).toarray()), expected)


def test_lift_is_the_formula():
    held = [sum(item in one for one in SESSIONS) for item in range(1, N + 1)]
    expected = torch.zeros(N, N)
    for i in range(1, N + 1):
        for j in range(1, N + 1):
            both = sum(i in one and j in one for one in SESSIONS)
            if i != j:
                expected[i - 1, j - 1] = both / (math.sqrt(held[i - 1]) * held[j - 1])
    torch.testing.assert_close(torch.from_numpy(lift(flat(SESSIONS), N).toarray()), expected)


def test_items_of_no_session_are_near_nothing():
    empty = Sessions(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert near(empty, N).nnz == lift(empty, N).nnz == 0


def test_likeness_is_of_other_titles_and_the_most_alike_come_first():
    titles = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    titles[7] = titles[3] + 0.01
    found = likeness(titles)
    assert found.items[3, 0] == 8
    assert found.items[7, 0] == 4
    assert not (found.items == torch.arange(1, 51)[:, None]).any()
    assert (found.weights.diff() <= 0).all()
    assert ((found.weights > 0) == (found.items > 0)).all()


def tables(seed=0, items=N):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(items, generator=generator) + 1 for _ in range(items)])
    return ItemItem(ids, torch.rand(items, items, generator=generator))


WEIGHTS = {PRIOR: [0.3], "near": [0.5, 0.1], "lift": [2.0, 0.7], OWN: [1.5, -0.75]}


def counted(items=N):
    made = Counted(items, ["near", "lift", OWN])
    both = {"near": tables(1, items), "lift": tables(2, items)}
    clicks = torch.arange(items)
    made.fit({name: padded(one, items) for name, one in both.items()}, clicks)
    made.weigh(WEIGHTS)
    return made, both, clicks


def padded(table, items):
    kept = min(NEIGHBOURS, items)
    return ItemItem(table.items[:, :kept], table.weights[:, :kept])


def test_scores_are_those_of_the_formula():
    made, both, clicks = counted()
    for session in ([3], [1, 2, 6, 1], [*range(1, N + 1)] * 3):
        logs = clicks.double().clamp(min=0.5).log()
        expected = WEIGHTS[PRIOR][0] * (logs - logs.mean())
        for name, table in both.items():
            sums = torch.zeros(N, dtype=torch.float64)
            for age, item in enumerate(reversed(session)):
                if age < CLICKS:
                    sums[table.items[item - 1] - 1] += math.exp(-age / FADING) * table.weights[item - 1]
            weight, small = WEIGHTS[name]
            expected = expected + weight * torch.log1p(sums / small)
        for item in set(session):
            expected[item - 1] += 1.5 if item == session[-1] else -0.75
        with torch.no_grad():
            found = made(*pad([session, [2] * 40]))[0]
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_sums_do_not_depend_on_weights():
    made, _, _ = counted()
    batch = pad([[3], [1, 2, 6, 1]])
    with torch.no_grad():
        before = made.sums(*batch)
        made.weigh({PRIOR: [0.0], "near": [1.0, 1.0], "lift": [1.0, 1.0], OWN: [0.0, 0.0]})
        torch.testing.assert_close(made.sums(*batch), before, atol=1e-5, rtol=1e-4)
        expected = torch.log1p(before).sum(2)
        torch.testing.assert_close(made(*batch), expected, atol=1e-5, rtol=1e-4)


def test_the_weights_that_made_the_targets_are_found():
    """Targets drawn from a softmax whose b, w and e are known, and of which the model's scores are half."""
    generator = torch.Generator().manual_seed(0)
    count, items = 20_000, 30
    scores = torch.randn(count, items, generator=generator)
    popularity = torch.randn(items, generator=generator).expand(count, -1)
    sums = torch.rand(count, items, 1, generator=generator) * (
        torch.rand(count, items, 1, generator=generator) < 0.4
    )
    own = torch.zeros(count, items, 2)
    own[:, 0, 0] = own[:, 1:4, 1] = 1
    a, b, w, e, r = 0.5, 0.25, 1.5, 0.2, torch.tensor([2.0, -0.5])
    logits = a * scores + b * popularity + own @ r + w * torch.log1p(sums[:, :, 0] / e)
    target = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    everything = torch.zeros(count, items)
    found = Candidates(scores, popularity, own, sums, everything, target, torch.ones(count))
    got = fitted(found, ["near", OWN])
    assert got[PRIOR][0] == pytest.approx(b / a, rel=0.1)
    assert got[OWN] == pytest.approx((r / a).tolist(), rel=0.1)
    weight, small = got["near"]
    for value in (0.1, 0.5, 1.0):
        assert weight * math.log1p(value / small) == pytest.approx(w / a * math.log1p(value / e), rel=0.1)


def test_popular_targets_can_be_made_to_count_less():
    """(1 + n)^-even of mean 1: with n = 0, 3, 15 and even = 1/2 the weights are as 1, 1/2, 1/4."""
    nothing, wide = torch.zeros(3, 1), torch.zeros(3, 1, 1)
    target = torch.zeros(3, dtype=torch.int64)
    found = Candidates(nothing, nothing, wide, wide, nothing, target, torch.ones(3))
    weight = found.evened(torch.tensor([0, 3, 15]), 0.5).weight
    torch.testing.assert_close(weight, torch.tensor([12 / 7, 6 / 7, 3 / 7]))
    assert torch.equal(found.evened(torch.tensor([0, 3, 15]), 0.0).weight, torch.ones(3))


def test_targets_that_no_list_shows_do_not_rule_a_bounded_loss():
    """The table points to the target of 240 sessions, and away from that of 160 whose score is hopeless.

    With u = w log(1 + 1 / e) the logarithm loses 160 u + 240 log(1 + exp -u), which rises for any u > 0; with
    q the hopeless lose next to nothing. 600 sessions without counts, of a hundred times the weight, keep the
    scores as they are.
    """
    helped, hopeless, others = 240, 160, 600
    scores = torch.cat([torch.zeros(helped, 2), torch.tensor([[-20.0, 0]]).expand(hopeless, 2)])
    scores = torch.cat([scores, torch.tensor([[3.0, 0]]).expand(others, 2)])
    sums = torch.zeros(len(scores), 2, 1)
    sums[:helped, 0] = sums[helped : helped + hopeless, 1] = 1.0
    target = torch.zeros(len(scores), dtype=torch.int64)
    target[-28:] = 1  # of 600, 1 / (1 + exp 3)
    nothing = torch.zeros_like(scores)
    own, weight = nothing[:, :, None].expand(-1, -1, 2), torch.ones(len(scores))
    weight[-others:] = 100.0
    found = Candidates(scores, nothing, own, sums, nothing, target, weight)
    for bounded, least, most in ((0.0, 0.0, 0.3), (0.4, 2.0, math.inf)):
        weight, small = fitted(found._replace(bounded=bounded), ["near"])["near"]
        assert least < weight * math.log1p(1 / small) < most


def test_what_says_nothing_gets_next_to_no_weight():
    generator = torch.Generator().manual_seed(1)
    count, items = 5_000, 30
    scores = torch.randn(count, items, generator=generator)
    sums = torch.rand(count, items, 1, generator=generator)
    target = torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]
    zeros = torch.zeros(count, items)
    own = zeros[:, :, None].expand(-1, -1, 2)
    got = fitted(Candidates(scores, zeros, own, sums, zeros, target, torch.ones(count)), ["near"])
    weight, small = got["near"]
    assert weight * (math.log1p(1 / small) - math.log1p(0.5 / small)) < 0.05


def toy_model(fuser=None):
    torch.manual_seed(0)
    recipe = Recipe(12, 8, "stamp", counted=("near", "lift", OWN))
    if fuser:
        views = ("long", "short")
        recipe = recipe._replace(fuser=fuser, perspectives=views, horizons=views, text_dim=6, predictor=True)
    model = build(recipe)
    if model.rescores:
        model.fuser.fit(torch.nn.functional.normalize(torch.randn(12, 6), dim=1), torch.arange(12))
    model.counted, _, _ = counted(12)
    return recipe, model.eval()


def test_it_is_saved_with_the_model(tmp_path):
    recipe, model = toy_model()
    save_model(tmp_path, model, recipe=recipe, catalogue="c", facts={})
    batch = pad([[1, 2], [3]])
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).model(*batch), model(*batch))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("fuser", "variant"), [pytest.param(None, "plain", marks=pytest.mark.slow), ("whitened", "predictor")]
)
def test_the_exported_graph_adds_it(tmp_path, fuser, variant, precision):
    _, model = toy_model(fuser)
    exporter = registry.create("exporters", "onnx")
    path = tmp_path / "model.onnx"
    inputs = toy_inputs([[1, 2, 6], [3], [4, 4]], variant)
    with torch.no_grad():
        expected = model(inputs["items"], inputs["mask"], predict=variant == "predictor").topk(5)
    exporter.export(model, inputs, path, spec=toy_spec(variant, precision=precision))
    ids, found = exporter.load(path).score(**inputs)
    assert torch.equal(ids, expected.indices + 1)
    torch.testing.assert_close(found, expected.values, atol=1e-4, rtol=1e-4)


def test_trained_models_have_it_but_plain_does_not(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",), sessions=120)
    some = settings(epochs=1, neighbours=0, controls=())
    out = trained(run, some)
    assert not any(name.startswith("counted") for name in weights(out, "plain"))
    assert "counted" not in record(out, "plain")["facts"]
    for variant, has in (("item-item", ("near", "lift", "slist")), ("llm", some.train.counted)):
        told = record(out, variant)
        facts = told["facts"]["counted"]
        assert facts["valid"]["MRR@20"] > facts["alone"]["MRR@20"], "the toy's rule is counted at once"
        assert told["facts"]["valid"] == facts["valid"]
        assert sorted(told["recipe"]["counted"]) == sorted(has)
        assert sorted(weights_of(told["facts"])) == sorted((PRIOR, *has))
        assert "counted.prior" in weights(out, variant)


def test_a_refit_has_the_tested_weights_and_tables_of_all_sessions(tmp_path):
    run = toy_run(tmp_path / "run", sources=(), sessions=120)
    some = settings(epochs=1, neighbours=0, llm="none", controls=())
    out = trained(run, some)
    refit(run, some, Progress(quiet=True), variant="item-item")
    tested, final = weights(out, "item-item"), weights(run / "final", "item-item")
    for name in ("prior", "tables.near.weight", "tables.near.small", "tables.lift.weight"):
        assert torch.equal(tested[f"counted.{name}"], final[f"counted.{name}"])
    every = near(load(run / "prepare").sessions, 20).toarray()
    assert final["counted.tables.near.weights"].max() == pytest.approx(every.max())
    assert tested["counted.tables.near.weights"].max() < every.max()


def test_without_validation_nothing_is_fitted(tmp_path):
    """Under the paper's protocol models are chosen on the test samples; no weights are fitted to them."""
    run = toy_run(tmp_path / "run", sources=(), split="paper", valid=False)
    out = trained(run, settings(epochs=1))
    assert "counted" not in record(out, "item-item")["facts"]
    assert record(out, "item-item")["facts"]["selected_on"] == "test"


def test_a_table_of_no_such_name_is_refused_before_training(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    with pytest.raises(
        ConfigError, match=r"train.counted: no table 'far'; there are near, lift, titles, slist"
    ):
        trained(run, settings(counted=("far",)))
    assert not list((run / "train").iterdir())


def test_tables_of_a_large_catalogue_are_bounded() -> None:
    """100 entries per item up to 200,000 items, 20 for a million."""
    sizes = {100: 100, 200_000: 100, 250_000: 80, 1_000_000: 20, 30_000_000: 1}
    assert {size: entries_per_item(NEIGHBOURS, size) for size in sizes} == sizes
    with torch.device("meta"):
        counted = Counted(1_000_000, ["near"])
    assert counted.tables["near"].items.shape == (1_000_000, 20)
