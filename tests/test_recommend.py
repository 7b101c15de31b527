from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.serving.recommend import Recommender
from llm4sbr.testing.toy_run import WIDTH, toy_run
from llm4sbr.training.trained import Trained, choose, reason


def add_model(run: Path, variant: str, seed: int, valid: float | None, *, predictor: bool = False) -> None:
    catalogue = load(run / "prepare").catalogue
    recipe = Recipe(catalogue.size, 8, "sr-gnn")
    if variant != "plain":
        recipe = recipe._replace(
            fuser="gated",
            perspectives=("long", "short"),
            horizons=("long", "short"),
            text_dim=WIDTH,
            predictor=predictor,
        )
    torch.manual_seed(seed)
    facts = {"seed": seed, "valid": {} if valid is None else {"MRR@20": valid}}
    folder = run / "train" / variant / f"seed-{seed}"
    save_model(folder, build(recipe), recipe=recipe, catalogue=catalogue_hash(catalogue), facts=facts)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = toy_run(tmp_path_factory.mktemp("runs") / "run")
    for variant, seed, valid in [
        ("plain", 0, 0.1),
        ("llm", 0, 0.2),
        ("llm", 1, 0.4),
        ("none", 0, 0.05),
        ("shuffled", 0, None),
    ]:
        add_model(run, variant, seed, valid, predictor=variant == "llm")
    return run


def test_scores_are_the_models_own(run: Path) -> None:
    recommender = Recommender.load(run)
    found = recommender.recommend(["Blue Chair (1991)", "i03"], k=5, exclude_seen=False, source="predictor")
    assert (found.variant, found.seed) == ("llm", 1)
    items = torch.tensor([[2, 3]])
    mask = torch.ones_like(items, dtype=torch.bool)
    with torch.no_grad():
        predicted = recommender.model.predict(recommender.model.backbone(items, mask), items, mask)
        scores = recommender.model(items, mask, predict=True)[0]
    assert found.intents is not None
    assert found.intents.source == "predictor"
    cosines = torch.nn.functional.cosine_similarity(predicted[0, 0], recommender.vectors, dim=1)
    tied = found.intents.perspectives[0].items
    assert [item.id for item in tied] == (cosines.argsort(descending=True)[:5] + 1).tolist()
    assert tied[0].weight == pytest.approx(float(cosines.max()), abs=1e-4)
    order = scores.argsort(descending=True)[:5]
    assert [item.id for item in found.items] == (order + 1).tolist()
    assert [item.score for item in found.items] == pytest.approx(scores[order].tolist())
    first = found.items[0]
    assert recommender.catalogue.item(first.id)[:3] == (first.id, first.key, first.title)


def test_what_was_seen_is_left_out(run: Path) -> None:
    recommender = Recommender.load(run)
    everything = recommender.recommend("i01, i02, i03", k=50, exclude_seen=False)
    rest = recommender.recommend("i01, i02, i03", k=50)
    assert len(everything.items) == 20
    assert len(rest.items) == 17
    assert [one for one in everything.items if one.id > 3] == rest.items


def test_intents_change_the_scores_and_are_explained(run: Path) -> None:
    recommender = Recommender.load(run)
    train = recommender.prepared.samples["train"]
    answered = recommender.live.intents.rows(train.key) >= 0  # type: ignore[union-attr]
    session = recommender.prepared.prefix(train, int(answered.nonzero()[0]))
    known = recommender.recommend(session, exclude_seen=False)
    without = recommender.recommend(session, exclude_seen=False, source="none")
    assert known.intents is not None
    assert known.intents.source == "cache"
    assert without.intents is not None
    assert (without.intents.source, without.intents.perspectives) == ("none", [])
    assert known.items != without.items


@pytest.mark.parametrize("source", ["cache", "predictor", "nearest", "none"])
def test_only_the_source_asked_for_is_used(run: Path, source: str) -> None:
    recommender = Recommender.load(run)
    train = recommender.prepared.samples["train"]
    answered = recommender.live.intents.rows(train.key) >= 0  # type: ignore[union-attr]
    known = recommender.prepared.prefix(train, int(answered.nonzero()[0]))
    found = recommender.recommend(known, source=source)
    assert found.intents is not None
    assert found.intents.source == source
    lists = {str(recommender.recommend(known, source=one).items) for one in ("predictor", "cache", "none")}
    assert len(lists) == 3


def test_auto_takes_the_first_that_has_something(run: Path) -> None:
    def source(recommender: Recommender, session: list[int | str], asked: str = "auto") -> str:
        found = recommender.recommend(session, source=asked)
        assert found.intents is not None
        return found.intents.source

    with_predictor = Recommender.load(run)
    assert source(with_predictor, [2, 3, 3, 3]) == "predictor"
    assert source(with_predictor, [2, 3, 3, 3], "cache") == "none"
    without = Recommender.load(run, variant="shuffled")
    assert without.model.predictor is None
    assert source(without, [2, 3, 3, 3]) == "nearest"
    with pytest.raises(InputError, match="trained without one; train it again"):
        without.recommend([2], source="predictor")
    with pytest.raises(InputError, match="takes no intents"):
        Recommender.load(run, variant="plain").recommend([2], source="cache")
    assert Recommender.load(run, variant="plain").recommend([2], source="none").intents is None


def test_predictions_need_no_stored_intents(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run", sources=())
    add_model(run, "llm", 0, 0.1, predictor=True)
    found = Recommender.load(run).recommend([2, 3])
    assert found.intents is not None
    assert (found.intents.source, found.intents.perspectives[0].items) == ("predictor", [])


def test_a_plain_model_takes_no_intents(run: Path) -> None:
    assert Recommender.load(run, variant="plain").recommend("i01").intents is None


def test_the_variant_none_is_served_without_intents(run: Path) -> None:
    assert Recommender.load(run, variant="none").recommend("i01").intents is None


def test_only_the_most_recent_clicks_count(run: Path) -> None:
    recommender = Recommender.load(run)
    longest = recommender.longest
    assert longest == 7  # toy sessions have up to 8 clicks, the last is a target
    recent = list(range(1, longest + 1))
    older = recommender.recommend([20, 19, *recent], exclude_seen=False)
    assert older.items == recommender.recommend(recent, exclude_seen=False).items
    assert len(older.session) == longest + 2


def test_as_dict_is_json(run: Path) -> None:
    found = Recommender.load(run).recommend("blue chair, i03", k=3).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert [item["how"] for item in found["session"]] == ["year or article", "key"]
    expected = {"items", "session", "variant", "seed", "intents", "engine", "left_out", "passing", "notes"}
    assert set(found) == expected


@pytest.mark.parametrize(
    ("session", "options", "message"),
    [
        ([], {}, "the session is empty"),
        ("", {}, "the session is empty"),
        ("Casablanca", {"unknown": "fail"}, "no item is called 'Casablanca'"),
        ([99], {}, "ids are 1 to 20"),
        ("i01", {"k": 0}, "k = 0"),
        ("i01", {"source": "oracle"}, "source = 'oracle'"),
    ],
)
def test_bad_input_is_one_line(run: Path, session: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Recommender.load(run).recommend(session, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_variant_and_seed(run: Path) -> None:
    with pytest.raises(InputError, match="no variant 'lm' is trained; there are llm, none, plain, shuffled"):
        Recommender.load(run, variant="lm")
    with pytest.raises(InputError, match="no seed 7 of variant 'llm' is trained; there are 0, 1"):
        Recommender.load(run, variant="llm", seed=7)
    assert Recommender.load(run, variant="llm", seed=0).trained.seed == 0


def test_what_is_served_is_what_is_best_on_validation(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run")
    for variant, seed, valid in [
        ("llm", 0, 0.10),
        ("llm", 1, 0.14),
        ("item-text", 0, 0.13),
        ("item-text", 1, 0.13),
        ("shuffled", 0, 0.20),  # a control, whatever it reaches
    ]:
        add_model(run, variant, seed, valid)
    best = Recommender.load(run).trained
    assert (best.variant, best.seed) == ("item-text", 0)
    assert reason(run, best) == "model item-text, seed 0: MRR@20 on validation 13.00%, llm 12.00%"
    named = Recommender.load(run, variant="llm").trained
    assert named.seed == 1
    assert reason(run, named) == (
        "model llm, seed 1, though item-text does better: MRR@20 on validation 12.00%, item-text 13.00%"
    )


def test_without_validation_the_llms_model_is_served(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run")
    for variant in ("item-text", "llm", "plain"):
        add_model(run, variant, 0, None)
    trained = Recommender.load(run).trained
    assert trained.variant == "llm"
    assert reason(run, trained) == "model llm, seed 0"


def test_choice_without_an_llm() -> None:
    models = [
        Trained("item-text", 0, 0.2, Path()),
        Trained("item-text", 1, 0.6, Path()),
        Trained("plain", 0, 0.5, Path()),
    ]
    assert choose(models) == models[2]  # by the mean over its seeds item-text has 0.4
    assert choose(models, variant="item-text", seed=0) == models[0]


def test_nothing_trained(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no trained model; run llm4sbr train"):
        Recommender.load(toy_run(tmp_path / "run"))


def test_another_catalogue(tmp_path: Path) -> None:
    other = toy_run(tmp_path / "other", items=19)
    add_model(other, "llm", 0, 0.1)
    run = toy_run(tmp_path / "run")
    (other / "train").rename(run / "train")
    with pytest.raises(StoreError, match="another catalogue"):
        Recommender.load(run)


def test_intents_of_another_catalogue(tmp_path: Path) -> None:
    other = toy_run(tmp_path / "other", items=19)
    run = toy_run(tmp_path / "run", sources=())
    add_model(run, "llm", 0, 0.1)
    (other / "localize").rename(run / "localize")
    with pytest.raises(StoreError, match=r"localize/llm: made for another catalogue"):
        Recommender.load(run)


def test_a_damaged_record(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run")
    add_model(run, "llm", 0, 0.1)
    (run / "train/llm/seed-0/model.json").write_text('{"facts": 3}')
    with pytest.raises(StoreError, match="not a model record"):
        Recommender.load(run)
