"""Rows of a run: asked through the answer cache, planned, within a budget, resumed, and compared."""

from __future__ import annotations

import json
import sqlite3

import pytest
import torch
from click.testing import CliRunner
from llm4sbr_related.candidates import LETTERS

from llm4sbr import freshness, registry
from llm4sbr.asking import baselines as asking
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.cli import _guarded, cli
from llm4sbr.config import build
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError, ModelUnavailableError
from llm4sbr.llms.transformers import TransformersLLM
from llm4sbr.progress import Progress
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.train import train
from llm4sbr.store import read_tensors
from llm4sbr.testing.llms import tiny_llama
from llm4sbr.testing.toy import toy_log
from llm4sbr.testing.toy_run import toy_run

QUIET = Progress(quiet=True)
POPULAR = {"retriever": "popularity", "candidates": 4, "history": 2}


class Follower:
    """Knows the toy's rule: names the letter of the item that follows the session's last one."""

    fingerprint, batch_size, price = "follower", 4, (1e6, 0.0)

    def __init__(self, fail_after=None):
        self.prompts = []
        self.fail_after = fail_after

    def generate(self, prompts):
        if self.fail_after is not None and len(self.prompts) >= self.fail_after:
            raise KeyboardInterrupt
        self.prompts += prompts
        return [self._answer(prompt.splitlines()) for prompt in prompts]

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]

    def _answer(self, lines):
        last = [line[3:] for line in lines if line[:1].isdigit()][-1]
        after = TITLES[(TITLES.index(last) + 1) % len(TITLES)]
        return next((line[0] for line in lines if line[3:] == after), "none of these")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = toy_run(tmp_path_factory.mktemp("related") / "run", sources=())
    (run / "train").mkdir()
    train(run, run / "train", settings(run), QUIET)
    TITLES[:] = load(run / "prepare").catalogue.titles
    return run


TITLES: list[str] = []


def settings(run, *names, **chosen):
    small = {"dim": 8, "epochs": 1, "workers": 1, "device": "cpu", "neighbours": 0, "counted": []}
    small |= {
        "baselines": names,
        "baseline_options": {name: POPULAR for name in names},
    }
    own = {"k": [1, 5], "llm": "transformers:none"} | chosen
    infer = {"llm": "none", "cache": str(run.parent / f"{own.pop('cache', 'answers')}.sqlite")}
    return build({"infer": infer, "train": small, "evaluate": own})


@pytest.fixture
def llm(monkeypatch):
    """Takes the LLM's place in the registry."""
    made, original = Follower(), registry.create

    def create(kind, name, /, **options):
        return made if kind == "llms" else original(kind, name, **options)

    monkeypatch.setattr(registry, "create", create)
    return made


def evaluated(run, out, config):
    out.mkdir()
    evaluate(run, out, config, QUIET)
    return {row["name"]: row for row in json.loads((out / "metrics.json").read_text())["rows"]}


def test_a_row_says_what_the_answers_change_and_what_the_retriever_reaches(run, tmp_path, llm):
    row = evaluated(run, tmp_path / "out", settings(run, "list-wise", samples=12, cache="a"))["list-wise"]
    asked, ranks = row["asked"], read_tensors(tmp_path / "out/baselines/list-wise/ranks.safetensors")
    assert row["label"] == "list-wise over popularity"
    assert asked["samples"] == int(ranks["asked"].sum()) == 12
    # The LLM always knows the next item: the target is first if it is a candidate, else where it was.
    prepared = load(run / "prepare")
    test, made = prepared.samples["test"], registry.create("baselines", "list-wise", num_items=20, **POPULAR)
    asking.fit(made, prepared)
    inside = torch.tensor(
        [
            int(prepared.sessions.items[end]) in made.candidates(prepared.prefix(test, one))
            for one, end in enumerate(test.end)
        ]
    )
    expected = torch.where(ranks["asked"] & inside, 1, ranks["alone"])
    assert torch.equal(ranks["ranks"], expected)
    assert 0 < asked["reach"] < 1
    assert asked["with"]["HR@1"] == asked["reach"] == float(inside[ranks["asked"]].double().mean())
    assert asked["alone"]["HR@1"] == float((ranks["alone"] == 1)[ranks["asked"]].double().mean())
    assert asked["prompts"] == len(set(llm.prompts)) == len(llm.prompts)
    words = sum(len(text.split()) for text in llm.prompts)
    assert words < asked["tokens"] <= words + 3 * len(llm.prompts)  # with the answers
    assert asked["cost"] == pytest.approx(words, abs=3 * len(llm.prompts))  # a million for a million tokens


def test_no_prompt_is_asked_twice_and_a_rerun_gives_the_same(run, tmp_path, llm):
    config = settings(run, "list-wise", samples=12, cache="b")
    first = evaluated(run, tmp_path / "one", config)["list-wise"]
    count = len(llm.prompts)
    again = evaluated(run, tmp_path / "two", config)["list-wise"]
    assert len(llm.prompts) == count
    assert again["asked"] == first["asked"] | {"from_cache": count, "seconds": again["asked"]["seconds"]}
    assert again["metrics"] == first["metrics"]


def test_an_interrupted_run_goes_on_where_it_stopped(run, tmp_path, llm):
    config = settings(run, "list-wise", samples=12, cache="c")
    llm.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        evaluated(run, tmp_path / "one", config)
    before, llm.fail_after = list(llm.prompts), None
    assert len(before) == 4
    row = evaluated(run, tmp_path / "two", config)["list-wise"]
    assert len(llm.prompts) == len(set(llm.prompts)) == row["asked"]["prompts"]
    assert row["asked"]["from_cache"] == 4


def test_a_budget_ends_the_asking_and_the_rest_is_the_retrievers(run, tmp_path, llm):
    config = settings(run, "pair-wise", samples=12, budget="20", cache="d")
    row = evaluated(run, tmp_path / "out", config)["pair-wise"]
    ranks = read_tensors(tmp_path / "out/baselines/pair-wise/ranks.safetensors")
    assert 0 < len(llm.prompts) <= 20
    assert 0 < int(ranks["asked"].sum()) < row["asked"]["samples"] == 12  # six prompts each, some the same
    assert torch.equal(ranks["ranks"][~ranks["asked"]], ranks["alone"][~ranks["asked"]])


def test_a_plan_counts_before_anything_is_asked(run, llm):
    config = settings(run, "list-wise", "pair-wise", samples=12, budget="20", cache="e")
    found = asking.plan_baselines(run, config, QUIET)
    assert not llm.prompts
    assert found["list-wise"].samples == found["pair-wise"].samples == 12
    assert found["list-wise"].prompts == 12
    assert found["pair-wise"].prompts == 12 * 6
    assert found["pair-wise"].within_budget == 20 < found["pair-wise"].ask == found["pair-wise"].distinct


def test_prompts_do_not_depend_on_what_comes_next(run):
    prepared = load(run / "prepare")
    test = prepared.samples["test"]
    config = settings(run, "list-wise")
    made = asking.create("list-wise", prepared, config)
    asking.fit(made, prepared)
    cut = prepared.sessions.items.clone()
    one = len(test.end) // 2
    cut[test.end[one] :] = 1
    changed = prepared._replace(sessions=prepared.sessions._replace(items=cut))
    assert made.prompts(prepared.prefix(test, one)) == made.prompts(changed.prefix(test, one))


@pytest.mark.parametrize("llm_name", ["none", "item-text", "shuffled"])
def test_without_an_llm_it_is_refused_before_anything_is_written(run, tmp_path, llm_name):
    with pytest.raises(ConfigError, match=rf"list-wise asks an LLM, and evaluate\.llm = {llm_name} is none"):
        evaluated(run, tmp_path / "out", settings(run, "list-wise", llm=llm_name))
    assert not list((tmp_path / "out").iterdir())


def test_llamarec_needs_logits(run, tmp_path, llm):
    with pytest.raises(ConfigError, match=r"^llamarec: the LLM \(follower\) gives no logits"):
        evaluated(run, tmp_path / "out", settings(run, "llamarec"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("llama") / "model")


def test_llamarec_ranks_by_the_logits_of_the_letters(run, tmp_path, llama):
    config = settings(run, "llamarec", llm=f"transformers:{llama}", samples=6, cache="f")
    row = evaluated(run, tmp_path / "out", config)["llamarec"]
    with AnswerCache.open(config.infer.cache) as cache, sqlite3.connect(cache.path) as connection:
        (llms,) = zip(*connection.execute("SELECT fingerprint FROM llms WHERE id > 0"), strict=True)
        texts = [text for (text,) in connection.execute("SELECT answer FROM answers")]
    assert [one.rpartition(", ")[2] for one in llms] == ["next-token scores of ABCD"]
    assert len(texts) == row["asked"]["prompts"] > 0
    for text in texts:  # probabilities over the letters
        assert sum(map(torch.tensor(list(map(float, text.split()))).exp().sum, [()])) == pytest.approx(
            1, abs=1e-3
        )


def test_scores_of_next_tokens_equal_one_by_one_and_generation(llama):
    model = TransformersLLM(llama, dtype="float32", device="cpu", max_new_tokens=1, batch_size=3)
    prompts = ["Red Lamp?", "Which of these will the user choose next? A or B?", "Red Lamp?", "x" * 100, "C"]
    together = model.next_token_scores(prompts, list(LETTERS))
    for prompt, row in zip(prompts, together, strict=True):
        (alone,) = model.next_token_scores([prompt], list(LETTERS))
        torch.testing.assert_close(torch.tensor(row), torch.tensor(alone), atol=1e-4, rtol=1e-4)
        everything = model.next_token_scores([prompt], [chr(code) for code in range(33, 127)])[0]
        said = model.generate([prompt])[0]
        if len(said) == 1 and 33 <= ord(said) < 127:
            assert everything.index(max(everything)) == ord(said) - 33


def test_letters_that_a_tokenizer_splits_are_one_line(llama):
    model = TransformersLLM(llama, dtype="float32", device="cpu")
    with pytest.raises(ConfigError, match=r"the LLM's tokenizer splits 'AB' into 2 tokens"):
        model.next_token_scores(["x"], ["A", "AB"])


def test_prompts_beyond_the_models_window_are_one_line(run, tmp_path, llama):
    options = {"list-wise": {"candidates": 4, "retriever": "popularity"}}
    config = settings(run, "list-wise", llm=f"transformers:{llama}", samples=2, cache="g")
    config = config.model_copy(
        update={
            "evaluate": config.evaluate.model_copy(update={"llm_options": {"max_new_tokens": 2040}}),
            "train": config.train.model_copy(update={"baseline_options": options}),
        }
    )
    said = r"list-wise got no answer to \d+ prompts: a prompt has .* tokens, .*; fewer candidates"
    with pytest.raises(ModelUnavailableError, match=said):
        evaluated(run, tmp_path / "out", config)


def test_what_is_asked_is_part_of_its_stamp_alone(tmp_path):
    stage = {
        "evaluate.k": [5],
        "evaluate.llm": "transformers:x",
        "evaluate.llm_options.dtype": "float32",
        "content of evaluate.llm": "abc",
        "evaluate.samples": 200,
        "evaluate.budget": "10m",
        "version of llms/transformers": "llm4sbr==0.1.0",
        "output of prepare": "def",
    }
    assert freshness._baseline(tmp_path, "baselines/list-wise", stage, tmp_path) == {
        key: value for key, value in stage.items() if key != "evaluate.k"
    }
    assert freshness._baseline(tmp_path, "baselines/popularity", stage, tmp_path) == {
        "output of prepare": "def"
    }


def test_the_command_plans_without_training_or_asking(tmp_path, llama):
    toy_log(tmp_path / "log")
    chosen = {
        "data.min_item_count": 1,
        "train.baselines": '["popularity", "list-wise", "gpt4rec"]',
        "evaluate.llm": f"transformers:{llama}",
        "evaluate.samples": 5,
        "infer.cache": tmp_path / "answers.sqlite",
    }
    log = ["--dataset", "csv", "--data", str(tmp_path / "log")]
    command = ["evaluate", str(tmp_path / "run"), *log, "--dry-run", "--json", "-q"]
    assigned = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    said = CliRunner().invoke(cli, [*command, *assigned])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert {name: (one["samples"], one["prompts"]) for name, one in found.items()} == {
        "list-wise": (5, 5),
        "gpt4rec": (5, 5),
    }
    assert not (tmp_path / "run" / "train").exists()
    assert not (tmp_path / "run" / "evaluate").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            '["popularity", "list-wise"]',
            "train.baselines: list-wise asks an LLM, and evaluate.llm = none is none",
        ),
        ('["llmseqsim"]', "train.baselines: llmseqsim needs text vectors of the items, and with infer.llm"),
        (
            '["llm-infer"]',
            "train.baselines: llm-infer needs text vectors of the items, and with infer.llm = none there",
        ),
    ],
)
def test_a_baseline_without_its_source_is_refused_before_anything_is_trained(tmp_path, capsys, names, said):
    toy_log(tmp_path / "log")
    log = ["--dataset", "csv", "--data", str(tmp_path / "log"), "--llm", "none"]
    command = ["run", str(tmp_path / "run"), *log, "--set", f"train.baselines={names}", "-q"]
    assert _guarded(command) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {said}")
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_verdict_tells_of_rows_that_asked(run, tmp_path, llm):
    evaluated(run, tmp_path / "out", settings(run, "list-wise", samples=12, cache="h"))
    text = json.loads((tmp_path / "out/metrics.json").read_text())["verdict"]
    assert "; list-wise over popularity " in text
    assert "with the answers of transformers:none to 12 samples" in text
    assert "nothing is shown about an LLM" not in text
