"""Stage `evaluate` on toy runs, the table's arithmetic, and the sentence under it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from llm4sbr.config import build
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError, StoreError
from llm4sbr.evaluation.comparison import Row, table
from llm4sbr.evaluation.ranking import MOST_SCORES, rank_all
from llm4sbr.evaluation.verdict import Asked, Comparison, Evidence, verdict
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples
from llm4sbr.report.results import main_table, setting
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.train import train
from llm4sbr.store import read_tensors
from llm4sbr.testing.toy_run import toy_run

sys.path.insert(0, str(Path(__file__).parent))
from toy_runs import sign

QUIET = Progress(quiet=True)
K = (1, 5, 10)


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads gain nothing on toys."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(k=K, **changes):
    base = {"dim": 8, "epochs": 2, "learning_rate": 0.01, "workers": 1, "device": "cpu"}
    return build({"infer": {"llm": "embedded"}, "train": base | changes, "evaluate": {"k": list(k)}})


def evaluated(run, config):
    for name, stage in (("train", train), ("evaluate", evaluate)):
        (run / name).mkdir()
        stage(run, run / name, config, QUIET)
    return json.loads((run / "evaluate/metrics.json").read_text())


def test_table_of_a_whole_run(tmp_path):
    run = toy_run(tmp_path / "run")
    found = evaluated(run, settings(seeds=2))
    ranks = read_tensors(run / "evaluate/ranks.safetensors")
    variants = ["plain", "item-item", "llm", "item-text", "shuffled", "none"]
    assert set(ranks) == {"popularity", "item-knn", "vmis-knn", "slist"} | {
        f"{name}/seed-{seed}" for name in variants for seed in (0, 1)
    }
    samples = len(load(run / "prepare").samples["test"].key)
    assert all(one.dtype == torch.int64 and one.shape == (samples,) for one in ranks.values())
    assert all(int(one.min()) >= 1 and int(one.max()) <= 20 for one in ranks.values())
    assert [row["name"] for row in found["rows"]] == [
        "popularity",
        "item-knn",
        "vmis-knn",
        "slist",
        *variants,
    ]
    assert [row["kind"] for row in found["rows"]] == ["baseline"] * 4 + [
        *("plain", "item-item", "intents"),
        *["control"] * 3,
    ]
    assert (found["k"], found["samples"], found["split"]) == ([1, 5, 10], samples, "temporal")
    assert (found["seeds"], found["selected_on"]) == (2, ["valid"])
    assert 0.7 < found["coverage"] < 0.9  # every fifth sample has no intent
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["llm"]["label"] == "sr-gnn, intents of embedded + counts"
    assert rows["plain"]["gain"] == rows["plain"]["p"] == {}
    expected = [(ranks[f"llm/seed-{seed}"] <= 5).double().mean().item() for seed in (0, 1)]
    assert rows["llm"]["metrics"]["HR@5"]["values"] == pytest.approx(expected)
    assert rows["llm"]["metrics"]["HR@5"]["mean"] == pytest.approx(sum(expected) / 2)
    base = rows["plain"]["metrics"]["MRR@10"]["mean"]
    assert rows["llm"]["gain"]["MRR@10"] == pytest.approx(rows["llm"]["metrics"]["MRR@10"]["mean"] / base - 1)
    assert 0 < rows["llm"]["p"]["MRR@10"] <= 1
    assert rows["llm"]["parameters"] > rows["plain"]["parameters"] > 0
    assert rows["llm"]["peak_memory"] > 0
    assert rows["popularity"]["parameters"] is None
    (seen,) = found["breakdown"]["target"]  # each toy item is clicked about 13 times in training
    assert (seen["name"], seen["samples"], set(seen["rows"])) == ("common", samples, set(rows))
    assert seen["rows"]["llm"]["HR@10"] == pytest.approx(rows["llm"]["metrics"]["HR@10"]["mean"])
    assert sum(group["samples"] for group in found["breakdown"]["length"]) == samples


def test_a_row_that_ended_while_rising_is_marked(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    some = {"neighbours": 0, "counted": (), "baselines": ["popularity", "item-knn"]}
    found = evaluated(run, settings(epochs=1, seeds=2, **some))
    rows = {row["name"]: row["still_rising"] for row in found["rows"]}
    assert rows == {"popularity": 0, "item-knn": 0, "plain": 2}  # seeds
    table = main_table(found["rows"], 10)
    assert [line[0].note for line in table.rows] == ["", "", "still rising"]
    assert "ended at train.epochs while the validation metric was still rising" in table.legend
    assert table.legend.endswith(
        "The plain backbone is one of these, so gains over it look larger than they are."
    )
    assert found["plain_rising"]
    calm = main_table([row | {"still_rising": 0} for row in found["rows"]], 10)
    assert "rising" not in calm.legend


@pytest.mark.parametrize(
    ("repeats", "words"),
    [(True, "own items included"), (False, "own items left out"), (None, "full ranking.")],
)
def test_the_first_line_says_what_is_ranked(repeats, words):
    metrics = {"samples": 638, "seeds": 1, "prefixes": "last"}
    line = setting(metrics if repeats is None else metrics | {"repeats": repeats})
    assert line.startswith("Percent over 638 test samples (the last click of each session), 1 seed")
    assert line.removesuffix(".").endswith(words.removesuffix("."))


def test_popularity_by_hand(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    evaluated(run, settings())
    prepared = load(run / "prepare")
    counts = torch.bincount(prepared.train.items, minlength=21)[1:]
    targets = prepared.sessions.items[prepared.samples["test"].end]
    test, items = prepared.samples["test"], prepared.sessions.items
    expected = []
    for start, end, target in zip(test.start, test.end, targets, strict=True):
        others = torch.ones(20, dtype=torch.bool)  # the session's own items are in no list
        others[items[start:end] - 1] = False
        expected.append(int((counts >= counts[target - 1])[others].sum()))
    assert not prepared.repeats
    assert read_tensors(run / "evaluate/ranks.safetensors")["popularity"].tolist() == expected


def test_batch_size_does_not_matter(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    prepared = load(run / "prepare")
    test, size = prepared.samples["test"], prepared.catalogue.size
    scores = torch.rand(50, size)

    def score(batch):
        return scores[batch.items.sum(1) % 50]

    about = {"num_items": size, "repeats": False}
    found = [rank_all(score, prepared.sessions, test, batch_size=b, **about) for b in (1, 7, 1000)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].float().std() > 0


def test_a_large_catalogue_gets_small_batches(tmp_path):
    """A batch never has more scores than `MOST_SCORES`, whatever the size asked for."""
    prepared = load(toy_run(tmp_path / "run", sources=()) / "prepare")
    sizes = []

    def score(batch):
        sizes.append(len(batch.target))
        return torch.zeros(1, MOST_SCORES // 3).expand(len(batch.target), -1)

    about = {"num_items": MOST_SCORES // 3, "batch_size": 512, "repeats": True}
    test = Samples(*(tensor[:8] for tensor in prepared.samples["test"]))
    rank_all(score, prepared.sessions, test, **about)
    assert sizes == [3, 3, 2]


@pytest.mark.parametrize(
    ("k", "message"),
    [((5, 21), "1 to 20 items"), ((0,), "at least one item"), ((), "at least one is needed")],
)
def test_lengths_that_no_list_can_have(tmp_path, k, message):
    run = toy_run(tmp_path / "run", sources=())
    (run / "train").mkdir()
    with pytest.raises(ConfigError, match=rf"evaluate\.k = .*{message}") as error:
        evaluate(run, run, settings(k=k), QUIET)
    assert "\n" not in str(error.value)


def test_model_of_another_catalogue(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    (run / "train").mkdir()
    train(run, run / "train", settings(), QUIET)
    record = run / "train/plain/seed-0/model.json"
    record.write_text(record.read_text().replace('"catalogue": "', '"catalogue": "0'))
    sign(record.parent)
    with pytest.raises(StoreError, match=r"another catalogue .* run train again"):
        evaluate(run, run, settings(), QUIET)


def row(name, kind, *ranks):
    facts = [{"seed": seed, "selected_on": "valid", "seconds": 2.0 * seed} for seed in range(len(ranks))]
    return Row(name, kind, name, [torch.tensor(one) for one in ranks], facts)


def test_arithmetic_by_hand():
    # HR@2 of plain: 1/4 and 3/4, mean 1/2, deviation sqrt(2 * (1/4)^2 / 1). Of the other: 4/4, gain 100%.
    plain = row("plain", "plain", [1, 3, 3, 3], [1, 1, 1, 3])
    other = row("shuffled", "control", [1, 2, 1, 1])
    found = table([plain, other], [2], groups=torch.arange(4), llm="none", coverage=None)
    first, second = found["rows"]
    assert first["metrics"]["HR@2"]["mean"] == 0.5
    assert first["metrics"]["HR@2"]["std"] == pytest.approx(0.125**0.5)
    assert second["gain"]["HR@2"] == pytest.approx(1.0)
    assert first["seconds"] == 1.0  # mean of 0 and 2
    # Differences 0, 1/2, 1/2, 1: of 8 sign vectors of the last three, +++ and --- are as extreme.
    assert second["p"]["HR@2"] == pytest.approx(2 / 8, abs=0.02)


def test_the_llm_against_its_controls_by_hand():
    # HR@2: the LLM 4/4, shuffled 2/4 with two differences of 1: of their four signs, ++ and -- are as extreme
    llm, shuffled = row("llm", "intents", [1, 1, 1, 1]), row("shuffled", "control", [1, 1, 3, 3])
    rows = [row("plain", "plain", [3, 3, 3, 1]), llm, shuffled]
    found = table(rows, [2], groups=torch.arange(4), llm="x", coverage=1.0)["against"]
    assert list(found) == ["shuffled"]
    assert found["shuffled"]["gain"]["HR@2"] == pytest.approx(1.0)
    assert found["shuffled"]["p"]["HR@2"] == pytest.approx(2 / 4, abs=0.03)


def test_gain_over_nothing_is_unknown():
    found = table(
        [row("plain", "plain", [9, 9]), row("llm", "intents", [1, 9])],
        [5],
        groups=torch.arange(2),
        llm="x",
        coverage=1.0,
    )
    assert found["rows"][1]["gain"]["HR@5"] is None
    json.dumps(found)


GROUND = Evidence(samples=1000, coverage=1.0, seeds=3, selected_on=["valid"])
UP, LEVEL, DOWN = Comparison(0.2, 0.001), Comparison(0.01, 0.4), Comparison(-0.1, 0.001)


def said(ground=GROUND, **found):
    pairs = {("llm", name.replace("_", "-")): one for name, one in found.items()}
    return verdict(pairs, ground, llm="embedded", metric="MRR@20")


def test_a_gain_that_is_the_llms_own():
    text = said(plain=UP, item_text=UP, shuffled=UP, none=UP)
    assert "so the gain is the LLM's own" in text
    assert text.count(".") >= 1
    assert text.endswith(".")
    assert "1,000 test samples and 3 seeds" in text


@pytest.mark.parametrize("control", ["item_text", "shuffled"])
@pytest.mark.parametrize("shared", [LEVEL, DOWN])
def test_a_gain_that_a_control_shares_is_not_the_llms(control, shared):
    text = said(**({"plain": UP, "item_text": UP, "shuffled": UP} | {control: shared}))
    assert "cannot be credited to what the LLM said" in text
    assert control.replace("_", "-") in text


def test_other_findings():
    assert "cannot be credited" in said(plain=UP, shuffled=UP)  # item-text was not trained
    assert "without controls" in said(plain=UP)
    assert "told from chance" in said(plain=LEVEL, item_text=UP, shuffled=UP)
    assert "worse" in said(plain=DOWN, item_text=UP, shuffled=UP)
    assert "plain backbone was not trained" in said(item_text=UP, shuffled=UP)
    assert "neither plain backbone nor control was trained" in said()


def test_a_control_in_place_of_an_llm_is_called_one():
    pairs = {("llm", "plain"): UP, ("llm", "shuffled"): UP}
    text = verdict(pairs, GROUND, llm="item-text", metric="MRR@20")
    assert "no LLM was asked" in text
    assert "own" not in text


def test_the_ground_is_named():
    ground = Evidence(samples=61, coverage=0.25, seeds=1, selected_on=["test"])
    text = said(ground, plain=LEVEL)
    assert "a single seed" in text
    assert "25% of them with an answer" in text
    assert "test set as in the paper" in text


def test_a_gain_over_a_backbone_that_was_cut_short_says_so():
    text = said(GROUND._replace(plain_rising=True), plain=UP, item_text=UP, shuffled=UP)
    assert "raise the plain backbone, whose training train.epochs cut short, (+20.0%, p = 0.001)" in text
    assert "cut short" not in said(plain=UP, item_text=UP, shuffled=UP)


def test_the_best_baseline_is_compared_with():
    ground = GROUND._replace(best_baseline="slist")
    assert "the model is below the best baseline, slist (-10.0%, p = 0.001)" in said(
        ground, plain=UP, item_text=UP, shuffled=UP, slist=DOWN
    )
    text = said(ground, plain=UP, item_text=UP, shuffled=UP, slist=UP)
    assert "so the gain is the LLM's own; the model is above the best baseline, slist" in text
    assert "credited" not in text  # a baseline is no control


def test_the_best_baseline_is_the_one_with_the_highest_value():
    rows = [
        Row("llm", "intents", "llm", [torch.tensor([1, 1, 2])], [{"seed": 0, "selected_on": "valid"}]),
        Row("weak", "baseline", "weak", [torch.tensor([3, 3, 3])], [{}]),
        Row("strong", "baseline", "strong", [torch.tensor([1, 3, 1])], [{}]),
    ]
    found = table(rows, (2,), groups=torch.arange(3), llm="x", coverage=1.0)
    assert found["best_baseline"] == "strong"
    assert "best baseline, strong (+25.0%" in found["verdict"]  # (1 + 1 + 1/2) / 3 against 2 / 3


def test_intents_that_no_sample_has_raise_nothing():
    text = said(GROUND._replace(coverage=0.0), plain=UP, item_text=UP, shuffled=UP)
    assert "no test sample has an answer, so nothing is shown about the intents of embedded" in text
    assert "raise" not in text


@pytest.mark.parametrize(("change", "told"), [(0.001, True), (-0.2, False), (None, False)])
def test_lists_that_do_not_depend_on_intents_are_called_so(change, told):
    text = said(GROUND._replace(without_intents=change), plain=UP, item_text=UP, shuffled=UP)
    assert ("the lists do not depend on the intents" in text) is told


def test_without_an_llm_nothing_is_claimed():
    plain = Comparison(-0.5, 0.001)
    text = verdict({("popularity", "plain"): plain}, GROUND, llm="none", metric="MRR@20")
    assert "nothing is shown about an LLM" in text
    assert "popularity lies below it (-50.0%, p = 0.001)" in text
    level = verdict({("popularity", "plain"): LEVEL}, GROUND, llm="none", metric="MRR@20")
    assert "popularity does as well" in level


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (UP, "is better with the answers of embedded to 100 samples than it is without (+20.0%, p = 0.001)"),
        (DOWN, "is worse with the answers of embedded to 100 samples than it is without (-10.0%, p = 0.001)"),
        (LEVEL, "does not differ with the answers of embedded to 100 samples from what it finds without"),
    ],
)
def test_what_a_baseline_gains_by_asking_is_said(one, words):
    asked = [Asked("list-wise over slist", "embedded", 100, one), Asked("gpt4rec", "embedded", 0, LEVEL)]
    text = verdict({("slist", "plain"): LEVEL}, GROUND, llm="none", metric="MRR@20", asked=asked)
    assert f"list-wise over slist {words}" in text
    assert text.endswith("gpt4rec has no answers of embedded.")
    assert "nothing is shown about intents" in text
    assert "about an LLM" not in text
