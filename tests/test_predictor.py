"""The predictor of intents: its features, its place in the model, and how it is distilled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr import registry
from llm4sbr.config import build as build_config
from llm4sbr.data.batches import sample_keys
from llm4sbr.evaluation.ranking import SampleIntents
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.fusion.predictor import Predictor
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.intents import IntentStore, IntentWriter
from llm4sbr.protocols import Encoded, Horizon, Samples, Sessions
from llm4sbr.stages.train import TrainingJob, train_job
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.training.distillation import distil

BACKBONES = [component.name for component in registry.components("backbones")]
FUSERS = [component.name for component in registry.components("fusers")]
N, D, E = 9, 8, 5
BOTH: tuple[Horizon, ...] = ("long", "short")


def made(fuser: str = "catalogue", backbone: str = "sr-gnn", *, predictor: bool = True) -> LLM4SBR:
    torch.manual_seed(0)
    recipe = Recipe(N, D, backbone, fuser=fuser, perspectives=BOTH, horizons=BOTH, text_dim=E)
    model = build(recipe._replace(predictor=predictor)).eval()
    if model.rescores:
        model.fuser.fit(torch.randn(N, E), torch.ones(N, dtype=torch.int64))  # type: ignore[union-attr]
    return model


clicks = st.lists(st.lists(st.integers(1, N), min_size=1, max_size=8), min_size=2, max_size=5)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("fuser", ["gated", "catalogue"])
@settings(max_examples=10, deadline=None)
@given(batch=clicks, extra=st.integers(0, 6))
def test_padding_and_company_do_not_matter(
    backbone: str, fuser: str, batch: list[list[int]], extra: int
) -> None:
    model = made(fuser, backbone)
    with torch.no_grad():
        expected = model(*pad(batch), predict=True)
        wider = model(*pad(batch, width=max(map(len, batch)) + extra), predict=True)
        alone = torch.cat([model(*pad([one]), predict=True) for one in batch])
    torch.testing.assert_close(wider, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)


def test_features_by_hand() -> None:
    predictor = Predictor(1, 1, 1, titles=True)
    encoded = Encoded(torch.tensor([[7.0], [8.0]]), torch.tensor([[5.0], [6.0]]))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    texts = torch.tensor([[[1.0], [3.0], [100.0]], [[0.0], [0.0], [6.0]]])
    # long, short, the last title, weights 1 and e^-0.7 of ages 0 and 1 (and e^-1.4 of 2), the mean
    a, b = torch.tensor([-0.7, -1.4]).exp().tolist()
    expected = [[7, 5, 3, (3 + a) / (1 + a), 2], [8, 6, 6, 6 / (1 + a + b), 2]]
    found = predictor.features(encoded, mask, texts)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("fuser", FUSERS)
def test_predicted_intents_stand_where_none_is_known(fuser: str) -> None:
    model = made(fuser)
    items, mask = pad([[1, 2, 3], [4], [5, 5]])
    with torch.no_grad():
        predicted = model.predict(model.backbone(items, mask), items, mask)
        assert predicted.shape == (3, 2, E)
        given = torch.randn(3, 2, E)
        given[0] = 0
        given[1, 1] = 0
        mixed = given.clone()
        mixed[0], mixed[1, 1] = predicted[0], predicted[1, 1]
        assert torch.equal(model(items, mask, given, predict=True), model(items, mask, mixed))
        assert torch.equal(model(items, mask, predict=True), model(items, mask, predicted))
        assert torch.equal(model(items, mask, mixed, predict=True), model(items, mask, mixed))
        if fuser != "ctrl":  # whose scores depend on no intents
            assert not torch.allclose(model(items, mask, predict=True), model(items, mask), atol=1e-4)


def test_without_a_predictor() -> None:
    with pytest.raises(ValueError, match="no predictor"):
        made(predictor=False)(*pad([[1, 2]]), predict=True)


def test_titles_help_only_a_fuser_that_knows_them() -> None:
    assert made("gated").predictor.map.in_features == 2 * D  # type: ignore[union-attr]
    assert made("catalogue").predictor.map.in_features == 2 * D + 3 * E  # type: ignore[union-attr]


@pytest.mark.parametrize("fuser", FUSERS)
def test_saved_with_the_model(fuser: str, tmp_path: Path) -> None:
    model = made(fuser)
    recipe = Recipe(N, D, "sr-gnn", fuser=fuser, perspectives=BOTH, horizons=BOTH, text_dim=E, predictor=True)
    save_model(tmp_path, model, recipe=recipe, catalogue="", facts={})
    items, mask = pad([[1, 2, 3], [4]])
    loaded = load_model(tmp_path).model
    with torch.no_grad():
        assert torch.equal(loaded(items, mask, predict=True), model(items, mask, predict=True))


def data(count: int) -> tuple[Sessions, Samples]:
    """`count` samples of 1 to 6 random clicks."""
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 8, (count,), generator=random)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    items = torch.randint(1, N + 1, (int(offsets[-1]),), generator=random)
    sessions = Sessions(items, offsets)
    start, end = offsets[:-1], offsets[1:] - 1
    return sessions, Samples(start, end, sample_keys(sessions, start, end))


def stored(folder: Path, sessions: Sessions, samples: Samples, intents: torch.Tensor) -> SampleIntents:
    keys, index = torch.unique(samples.key, return_inverse=True)
    first = torch.zeros(len(keys), dtype=torch.int64).scatter_(0, index, torch.arange(len(index)))
    writer = IntentWriter(folder, ["long", "short"], about={"catalogue": ""})
    located = torch.zeros(len(keys), 2, 0)
    writer.add(keys, intents[first], located, located)
    writer.close()
    return SampleIntents.of(IntentStore.open(folder), sessions, samples)


def titles_told(model: LLM4SBR, sessions: Sessions, samples: Samples) -> torch.Tensor:
    """Intents that a linear map of titles gives: `short` the last one, `long` half of it."""
    last = sessions.items[samples.end - 1]
    title = model.fuser.texts(last[:, None])[:, 0]  # type: ignore[union-attr]
    return torch.stack([title / 2, title], 1)


def test_what_can_be_predicted_is(tmp_path: Path) -> None:
    model = made(predictor=False)
    sessions, samples = data(400)
    intents = titles_told(model, sessions, samples)
    found = distil(model, sessions, samples, stored(tmp_path, sessions, samples, intents))
    assert found is not None
    assert found["samples"] == 400
    assert found["unexplained"] < 1e-4
    items, mask = pad([[3, 1, 2], [7], [4, 4, 9, 5]])
    expected = model.fuser.texts(torch.tensor([[2], [7], [5]]))  # type: ignore[union-attr]
    with torch.no_grad():
        predicted = model.predict(model.backbone(items, mask), items, mask)
    torch.testing.assert_close(predicted[:, 1:], expected, atol=0.03, rtol=0.03)
    torch.testing.assert_close(predicted[:, :1], expected / 2, atol=0.03, rtol=0.03)


def test_what_cannot_be_predicted_is_said_and_shrunk(tmp_path: Path) -> None:
    model = made(predictor=False)
    sessions, samples = data(400)
    noise = torch.randn(400, 2, E, generator=torch.Generator().manual_seed(5)) + 3
    found = distil(model, sessions, samples, stored(tmp_path, sessions, samples, noise))
    assert found is not None
    assert 0.9 < found["unexplained"] < 1.3
    assert found["penalty"] >= 1
    items, mask = pad([[3, 1, 2]])
    with torch.no_grad():
        predicted = model.predict(model.backbone(items, mask), items, mask)
    torch.testing.assert_close(predicted.mean(), torch.tensor(3.0), atol=0.2, rtol=0)


def test_distilling_again_gives_the_same_and_leaves_the_model_alone(tmp_path: Path) -> None:
    sessions, samples = data(100)
    weights = []
    for folder in ("a", "b"):
        model = made(predictor=False)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        intents = titles_told(model, sessions, samples)
        distil(model, sessions, samples, stored(tmp_path / folder, sessions, samples, intents))
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
        weights.append(model.predictor.map.weight)  # type: ignore[union-attr]
    assert torch.equal(*weights)


def test_samples_without_every_intent_do_not_count(tmp_path: Path) -> None:
    model = made(predictor=False)
    sessions, samples = data(200)
    intents = titles_told(model, sessions, samples)
    unusable = sessions.items[samples.end - 1] <= 3
    intents[unusable, 0] = 0
    found = distil(model, sessions, samples, stored(tmp_path, sessions, samples, intents))
    assert found is not None
    assert found["samples"] == int((~unusable).sum())


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    model = made(predictor=False)
    sessions, samples = data(30)
    assert (
        distil(model, sessions, samples, stored(tmp_path, sessions, samples, torch.zeros(30, 2, E))) is None
    )
    assert model.predictor is None


def test_the_solution_is_ridge_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the normal equations of all samples at once, in NumPy, however the samples are batched."""
    monkeypatch.setattr("llm4sbr.training.distillation.PENALTIES", (0.5,))
    monkeypatch.setattr("llm4sbr.training.distillation.BATCH", 7)
    monkeypatch.setattr("llm4sbr.training.distillation.MOST_ASIDE", 1)
    model = made("gated", predictor=False)
    sessions, samples = data(60)
    intents = torch.randn(60, 2, E, generator=torch.Generator().manual_seed(2))
    given = stored(tmp_path, sessions, samples, intents)
    assert distil(model, sessions, samples, given) is not None
    used = torch.randperm(60, generator=torch.Generator().manual_seed(0))[1:]
    rows = [sessions.items[int(s) : int(e)].tolist() for s, e in zip(samples.start, samples.end, strict=True)]
    items, mask = pad([rows[one] for one in used])
    with torch.no_grad():
        encoded = model.backbone(items, mask)
    x = torch.cat([encoded.long, encoded.short], 1).double().numpy()
    y = given.gather(used).flatten(1).double().numpy()
    unit = (x - x.mean(0)) / x.std(0)
    slope = np.linalg.solve(unit.T @ unit + 0.5 * len(x) * np.eye(2 * D), unit.T @ (y - y.mean(0)))
    expected = unit[:5] @ slope + y.mean(0)
    with torch.no_grad():
        found = model.predict(model.backbone(items[:5], mask[:5]), items[:5], mask[:5])
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=1e-4)


def test_what_interrupts_distilling_costs_nothing_but_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"dim": 8, "epochs": 2, "fuser": "catalogue", "workers": 1, "device": "cpu"}
    config = build_config({"infer": {"llm": "embedded"}, "train": chosen})
    run = toy_run(tmp_path / "run", sources=("llm",))
    whole, cut = (TrainingJob(run, tmp_path / name, config, "llm", 0) for name in ("whole", "cut"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("llm4sbr.training.trainer.distil", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_job(cut, lambda n, note: None)
    assert not (cut.folder / "model.json").exists()
    epochs: list[int] = []
    train_job(cut, lambda n, note: epochs.append(n))
    assert not sum(epochs)  # no sample was trained on again
    train_job(whole, lambda n, note: None)
    models = [load_model(job.folder) for job in (whole, cut)]
    for name, tensor in models[0].model.state_dict().items():
        assert torch.equal(tensor, models[1].model.state_dict()[name]), name
    assert models[1].facts["predictor"]["samples"] > 20


def test_only_models_with_intents_have_a_predictor(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run", sources=("llm",))
    config = build_config(
        {
            "infer": {"llm": "embedded"},
            "train": {"dim": 8, "epochs": 1, "workers": 1, "device": "cpu"},
        }
    )
    for variant, expected in (("plain", False), ("none", False), ("llm", True)):
        train_job(TrainingJob(run, tmp_path / variant, config, variant, 0), lambda n, note: None)
        found = load_model(tmp_path / variant)
        assert (found.recipe.predictor, found.model.predictor is not None) == (expected, expected)
