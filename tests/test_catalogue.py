"""Fusers by which text reaches the catalogue: golden values, their files, and a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from llm4sbr.config import build as configured
from llm4sbr.data.prepared import load
from llm4sbr.errors import StoreError
from llm4sbr.evaluation.metrics import ranks
from llm4sbr.fusion.catalogue import TextCatalogue
from llm4sbr.fusion.losses import joint_loss
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.fusion.titles import FIRST_WEIGHT, WEIGHTS_RATE, TitleVectors
from llm4sbr.fusion.whitened import MIN_DEVIATION, OWN_ITEMS_RATE, Whitened, Whitening
from llm4sbr.progress import Progress
from llm4sbr.serving.recommend import Recommender
from llm4sbr.stages.train import train
from llm4sbr.store import read_tensors, write_tensors
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.toy_run import WIDTH, toy_run

N, D, E = 9, 6, 5
NAMES = ("catalogue", "whitened")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(fuser="catalogue", backbone="sr-gnn", items=N, dim=D, text_dim=E, **options):
    horizons = ("long", "short")
    return Recipe(items, dim, backbone, {}, fuser, options, horizons, horizons, text_dim)


def change(fuser):
    """Other parameters than the first ones: what begins at zero would hide what it does."""
    with torch.no_grad():
        for parameter in fuser.parameters():
            parameter.normal_()
        fuser.weights.log /= WEIGHTS_RATE
        if isinstance(fuser, Whitened):
            fuser.own.copy_(torch.tensor(-3 / OWN_ITEMS_RATE))


def with_own_items(fuser, scores, sessions):
    """What is added to a session's own items, once however often they were clicked."""
    if isinstance(fuser, TextCatalogue):
        return scores
    scores = scores.clone()
    for row, session in enumerate(sessions):
        for item in set(session):
            scores[row, item - 1] -= 3
    return scores


def made(fuser="catalogue", backbone="sr-gnn"):
    torch.manual_seed(0)
    model = build(recipe(fuser, backbone))
    model.fuser.fit(torch.randn(N, E), torch.arange(N))
    change(model.fuser)
    return model.eval()


def test_titles_are_constants():
    titles = TitleVectors(2, 2)
    assert not titles(torch.ones(1, 2)).any()
    titles.fit(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
    assert titles(torch.tensor([[10.0, 1.0]])).tolist() == [[12.0, 29.0]]
    assert not list(titles.parameters())


def golden(fuser):
    fuser.fit(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.ones(3, dtype=torch.int64))
    with torch.no_grad():
        fuser.weights.log.copy_(torch.tensor([2.0, 0.5]).log() / WEIGHTS_RATE)
    scores = torch.tensor([[100.0, 200.0, 300.0]])
    return scores, torch.tensor([[3.0]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])


def test_catalogue_by_hand():
    fuser = TextCatalogue(1, 2, num_items=3, text_dim=2)
    scores, fused, intents = golden(fuser)
    # Untrained, M is zero: 2 (1, 0) + 0.5 (0, 4) = (2, 2), so 2, 2 and 4 for the three titles.
    torch.testing.assert_close(fuser.rescore(scores, fused, intents), torch.tensor([[102.0, 202.0, 304.0]]))
    assert torch.equal(fuser.rescore(scores, fused, None), scores)
    with torch.no_grad():
        fuser.to_text.weight.copy_(torch.tensor([[1.0], [-10.0]]))
    # M^T v = 3 (1, -10) = (3, -30): 3, -30 and -27 besides.
    torch.testing.assert_close(fuser.rescore(scores, fused, intents), torch.tensor([[105.0, 172.0, 277.0]]))
    torch.testing.assert_close(fuser.rescore(scores, fused, None), torch.tensor([[103.0, 170.0, 273.0]]))


def test_clicks_of_training_only(tmp_path):
    run = toy_run(tmp_path / "run")
    (run / "train").mkdir()
    train(run, run / "train", settings(fuser="whitened", plain=False), Progress(quiet=True))
    clicks = np.bincount(load(run / "prepare").train.items.numpy(), minlength=21)[1:]
    fuser = load_model(run / "train" / "llm" / "seed-0").model.fuser
    torch.testing.assert_close(fuser.keep, torch.tensor(clicks / (clicks + 1)).float())


def whitened_by_formula(fuser, titles, clicks, scores, fused, intents):
    """The scores of `Whitened` in float64 NumPy, from the equations of its docstring."""

    def whiten(vectors):
        found = (vectors - titles.mean(0)) @ axes
        return found / np.linalg.norm(found, axis=-1, keepdims=True)

    squares, directions = np.linalg.eigh(np.cov(titles.T, bias=True) * len(titles))
    strongest = np.argsort(squares)[::-1][: fuser.to_text.out_features]
    relative = np.sqrt(np.clip(squares[strongest], 0, None) / squares.max())
    axes = directions[:, strongest] / np.maximum(relative, MIN_DEVIATION)
    axes = axes * np.sign(
        (axes * fuser.whitening.axes.double().numpy()[:, ::-1]).sum(0)
    )  # an axis has no sign
    axes = axes[:, ::-1]
    prior, metric, to_text = (
        one.detach().double().numpy() for one in (fuser.prior, fuser.metric, fuser.to_text.weight)
    )
    weights = (WEIGHTS_RATE * fuser.weights.log.detach().double()).exp().numpy()
    logs = np.log(np.maximum(clicks, 0.5))
    z = whiten(titles)
    found = np.zeros(scores.shape)
    for row in range(len(scores)):
        query = to_text @ fused[row]
        for p, intent in enumerate(intents[row]):
            if intent.any():
                x = whiten(intent)
                query = query + weights[p] * (x + x @ metric)
        found[row] = clicks / (clicks + 1) * scores[row] + prior * (logs - logs.mean()) + z @ query
    return found


@pytest.mark.parametrize("rank", [3, 9])  # fewer and more than E
def test_whitened_by_its_formula(rank):
    random = np.random.default_rng(0)
    titles, clicks = random.normal(size=(N, E)) + 2, np.arange(N)
    scores, fused, intents = (random.normal(size=shape) for shape in ((4, N), (4, D), (4, 2, E)))
    intents[0] = 0
    intents[1, 1] = 0
    fuser = Whitened(D, 2, num_items=N, text_dim=E, rank=rank).eval()
    fuser.fit(torch.tensor(titles), torch.tensor(clicks))
    change(fuser)
    given = (torch.tensor(one, dtype=torch.float32) for one in (scores, fused, intents))
    found = fuser.rescore(*given).detach().double().numpy()
    expected = whitened_by_formula(fuser, titles, clicks, scores, fused, intents)
    np.testing.assert_allclose(found, expected, atol=2e-2)  # titles are kept in half precision


def test_untrained_whitened_by_hand():
    fuser = Whitened(1, 2, num_items=4, text_dim=2).eval()
    titles = torch.tensor([[3.0, 1.0], [-1.0, 1.0], [1.0, 2.0], [1.0, 0.0]])
    fuser.fit(titles, torch.tensor([0, 1, 3, 1]))
    # The mean is (1, 1). Titles vary twice as much along the first axis, which whitening undoes: they lie at
    # (1, 0), (-1, 0), (0, 1), (0, -1), up to the axes' signs. An intent at the first title, weight 8:
    scores, fused = torch.tensor([[10.0, 10.0, 10.0, 10.0]]), torch.tensor([[5.0]])
    logs = torch.tensor([0.5, 1.0, 3.0, 1.0]).log()
    trusted = torch.tensor([[0.0, 5.0, 7.5, 5.0]]) + logs - logs.mean()
    told = torch.tensor([[8.0, -8.0, 0.0, 0.0]])
    intents = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(fuser.rescore(scores, fused, intents), trusted + told)
    torch.testing.assert_close(fuser.rescore(scores, fused, None), trusted)
    back = torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 1.5], [1.0, 0.5]])  # half as far from the mean
    torch.testing.assert_close(fuser.whitening.back(fuser.titles.vectors.float()), back)


def test_rare_ids_are_asked_as_often_as_they_are_trusted():
    torch.manual_seed(0)
    fuser = Whitened(1, 2, num_items=3, text_dim=2, shrinkage=2.0).train()
    fuser.fit(torch.randn(3, 2), torch.tensor([0, 2, 6]))
    with torch.no_grad():
        fuser.prior.zero_()
    scores = torch.full((2, 3), 7.0)
    drawn = torch.stack([fuser.rescore(scores, torch.zeros(2, 1), None) for _ in range(2000)])
    assert torch.equal(drawn[:, 0], drawn[:, 1])  # a batch draws once
    assert set(drawn.unique().tolist()) == {0.0, 7.0}
    torch.testing.assert_close(drawn[:, 0].mean(0) / 7, torch.tensor([0.0, 0.5, 0.75]), atol=0.04, rtol=0)


def test_equal_titles_are_whitened_to_numbers():
    whitening = Whitening(3, 2)
    whitening.fit(torch.ones(4, 3))
    assert whitening(torch.randn(5, 3)).isfinite().all()


def test_an_item_is_its_id_embedding_and_its_mapped_title():
    model = made()
    items, mask = pad([[1, 2, 3], [4]])
    fused = model.fuser(model.represent(items, mask).behavioural, torch.zeros(2, 2, D))
    whole = model.backbone.item_embeddings() + model.fuser.titles.vectors.float() @ model.fuser.to_text.weight
    torch.testing.assert_close(model(items, mask), fused @ whole.T)


@pytest.mark.parametrize("fuser", NAMES)
def test_a_backbones_own_score_stands(fuser):
    model = made(fuser, "tagnn")
    items, mask = pad([[1, 2, 3], [4]])
    intents = torch.randn(2, 2, E)
    output = model.represent(items, mask, intents)
    fused = model.fuser(output.behavioural, output.semantic)
    own = model.backbone.score(fused, output.encoded)
    rescored = model.fuser.rescore(own, fused, intents)
    torch.testing.assert_close(output.scores, with_own_items(model.fuser, rescored, [[1, 2, 3], [4]]))
    assert not torch.allclose(output.scores, own, atol=1e-2)


@pytest.mark.parametrize("fuser", NAMES)
def test_saved_with_its_titles(fuser, tmp_path):
    model = made(fuser)
    save_model(tmp_path, model, recipe=recipe(fuser), catalogue="c", facts={})
    items, mask = pad([[1, 2, 3], [4]])
    intents = torch.randn(2, 2, E)
    loaded = load_model(tmp_path).model
    assert torch.equal(loaded(items, mask, intents), model(items, mask, intents))
    titles = read_tensors(tmp_path / "model.safetensors")["fuser.titles.vectors"]
    assert (titles.dtype, tuple(titles.shape)) == (torch.float16, (N, E))


@pytest.mark.parametrize("fuser", NAMES)
def test_traced_for_any_batch_and_length(fuser):
    model = made(fuser)
    items, mask = pad([[1, 2, 3], [4, 5]])
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = (free, free, {0: torch.export.Dim.DYNAMIC})
    program = torch.export.export(model, (items, mask, torch.randn(2, 2, E)), dynamic_shapes=shapes)
    other = (*pad([[1], [2, 3, 4, 5, 6], [7]]), torch.randn(3, 2, E))
    torch.testing.assert_close(program.module()(*other), model(*other))


def new_items(fuser, *, items=40, dim=16):
    """Mean rank of targets that training never saw, where a session's intent is its target's title.

    Items 1 to 30 occur in training, in any order; the other ten do not. Only intents tell what comes next.
    """
    torch.manual_seed(0)
    titles = functional.normalize(torch.randn(items, dim), dim=1)
    model = build(recipe(fuser, items=items, dim=dim, text_dim=dim))
    if fuser != "gated":
        model.fuser.fit(titles, torch.where(torch.arange(items) < 30, 50, 0))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        clicked, target = torch.randint(1, 31, (64, 3)), torch.randint(1, 31, (64,))
        intents = titles[target - 1].unsqueeze(1).expand(-1, 2, -1)
        output = model.represent(clicked, clicked > 0, intents)
        optimizer.zero_grad()
        joint_loss(output, target, tau=0.1).total.backward()
        optimizer.step()
    target = torch.arange(31, 41)
    clicked = torch.randint(1, 31, (10, 3))
    scores = model.eval()(clicked, clicked > 0, titles[target - 1].unsqueeze(1).expand(-1, 2, -1))
    return ranks(scores, target).double().mean().item()


@pytest.mark.parametrize("fuser", NAMES)
def test_finds_items_that_training_never_saw(fuser):
    assert new_items(fuser) <= 2


def test_gated_cannot_find_items_that_training_never_saw():
    assert new_items("gated") > 20  # behind half of the catalogue


def settings(**changes):
    base = {"dim": 8, "epochs": 2, "learning_rate": 0.01, "workers": 1, "device": "cpu", "batch_size": 32}
    return configured({"infer": {"llm": "embedded"}, "train": base | changes})


@pytest.mark.parametrize("fuser", [pytest.param("catalogue", marks=pytest.mark.slow), "whitened"])
def test_trained_in_a_run_and_served_from_it(fuser, tmp_path):
    run = toy_run(tmp_path / "run")
    (run / "train").mkdir()
    train(run, run / "train", settings(fuser=fuser), Progress(quiet=True))
    items = read_tensors(run / "localize" / "items.safetensors")["items"]
    variants = ("llm", "item-text", "shuffled", "none")
    for variant in variants:
        held = load_model(run / "train" / variant / "seed-0").model.fuser.titles.vectors
        if fuser == "catalogue":
            assert torch.equal(held, items.half())
        assert held.any(1).all()
    weights = load_model(run / "train" / "llm" / "seed-0").model.fuser.weights.log * WEIGHTS_RATE
    first = FIRST_WEIGHT * (2 if fuser == "whitened" else 1)
    assert (weights.exp() - first).abs().min() > 0.01  # learned
    (run / "localize" / "items.safetensors").unlink()  # a trained model needs it no more
    recommender = Recommender.load(run, variant="llm")
    with_text = recommender.recommend([3, 4], k=5)
    without = recommender.recommend([3, 4], k=5, source="none")
    assert with_text.intents is not None
    assert [one.score for one in with_text.items] != [one.score for one in without.items]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "items.safetensors"),
        (lambda path: write_tensors(path, {"items": torch.zeros(3, WIDTH)}), r"items \(3, 8\), .* \(20, 8\)"),
        (lambda path: write_tensors(path, {"other": torch.zeros(3)}), r"items \(0, 0\), .* \(20, 8\)"),
    ],
)
def test_missing_or_foreign_titles_are_one_line(harm, message, tmp_path):
    run = toy_run(tmp_path / "run")
    harm(run / "localize" / "items.safetensors")
    (run / "train").mkdir()
    with pytest.raises(StoreError, match=message) as error:
        train(run, run / "train", settings(fuser="catalogue", plain=False), Progress(quiet=True))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("intents", [None, torch.randn(2, 2, E)])
@pytest.mark.parametrize("fuser", NAMES)
def test_factors_and_queries_give_the_same_scores(fuser, intents):
    model = made(fuser)
    items, mask = pad([[1, 2, 3, 2], [4]])
    output = model.represent(items, mask, intents)
    tables = model.fuser.factors(model.backbone.item_embeddings())
    queries = model.fuser.queries(output.fused, intents)
    products = sum(query @ table.T for query, table in zip(queries, tables, strict=True))
    torch.testing.assert_close(
        with_own_items(model.fuser, products, [[1, 2, 3, 2], [4]]), output.scores, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("back", [True, False])
def test_own_items_learn_whether_people_come_back(back):
    """Targets are the session's first item, or one that was not clicked; the number shows it in 40 steps."""
    torch.manual_seed(0)
    model = build(recipe("whitened"))
    model.fuser.fit(torch.randn(N, E), torch.full((N,), 50))
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    for _ in range(40):
        shuffled = torch.rand(64, N).argsort(1) + 1
        clicked, target = shuffled[:, :3], shuffled[:, 0 if back else 4]
        output = model.represent(clicked, clicked > 0, torch.randn(64, 2, E))
        optimizer.zero_grad()
        joint_loss(output, target, tau=0.1).total.backward()
        optimizer.step()
    learned = model.fuser.repeats.item()
    assert learned > 1 if back else learned < -1
