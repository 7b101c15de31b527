from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from llm4sbr import store
from llm4sbr.asking.asker import Asker, Budget, parse_budget
from llm4sbr.asking.cache import Answer, AnswerCache, answer_key
from llm4sbr.asking.exchange import export_answers, import_answers
from llm4sbr.asking.questions import Questions, missing_prompts
from llm4sbr.config import Config, build, to_settings, to_toml
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError, Llm4sbrError
from llm4sbr.progress import Progress
from llm4sbr.stages.infer import infer
from llm4sbr.testing.toy_run import toy_run

PARROT = '''
import os, time

class Parrot:
    """Says the last title of the prompt; writes down what it was asked."""

    batch_size = 4

    def __init__(self, *, log, pause=0.0):
        self.fingerprint = "parrot"
        self.log, self.pause = log, pause

    def generate(self, prompts):
        answers = []
        for prompt in prompts:
            time.sleep(self.pause)
            with open(self.log, "a") as stream:
                stream.write(repr(prompt) + "\\n")
            answers.append("The item is " + prompt.splitlines()[-2].partition(". ")[2] + ".")
        return answers
'''
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("infer") / "run", sources=())


@pytest.fixture
def parrot(install, tmp_path):
    """`parrot(cache="a", **settings)`: a configuration whose LLM is the parrot; it logs into `asked.txt`."""
    install("parrot-llm", {"llms": {"parrot": "parrot:Parrot"}}, parrot=PARROT)

    def configure(cache: str = "answers", pause: float = 0.0, **settings: object) -> Config:
        options = {"log": str(tmp_path / "asked.txt"), "pause": pause}
        own = {"llm": "parrot", "options": options, "cache": tmp_path / f"{cache}.sqlite", **settings}
        return build({"infer": own})

    return configure


def _asked(folder: Path) -> list[str]:
    path = folder / "asked.txt"
    return path.read_text().splitlines() if path.exists() else []


def _infer(run: Path, out: Path, config: Config) -> dict[str, pl.DataFrame]:
    out.mkdir(exist_ok=True)
    infer(run, out, config, QUIET)
    return {f"{p.parent.name}/{p.stem}": pl.read_parquet(p) for p in sorted(out.glob("*/*.parquet"))}


def test_every_distinct_prefix_gets_one_answer_per_perspective(run, tmp_path, parrot):
    tables = _infer(run, tmp_path / "out", parrot())
    prepared = load(run / "prepare")
    keys = {int(k) for part in prepared.samples.values() for k in part.key}
    assert set(tables) == {f"{s}/{p}" for s in ("llm", "item-text", "shuffled") for p in ("long", "short")}
    for table in tables.values():
        assert table["key"].n_unique() == table.height == len(keys)
        assert set(table["key"]) == keys
        assert dict(table.schema) == {
            "key": pl.Int64, "answer": pl.String, "parsed": pl.String,
            "seconds": pl.Float64, "tokens": pl.Int64, "cached": pl.Boolean,
        }  # fmt: skip
    test = prepared.samples["test"]
    title = prepared.catalogue.item(prepared.prefix(test, 3)[-1]).title
    row = tables["llm/long"].row(by_predicate=pl.col("key") == int(test.key[3]), named=True)
    assert row["parsed"] == title
    assert row["answer"].startswith(f"The item is {title}_")
    assert not row["cached"]


def test_equal_prompts_are_asked_once(run, tmp_path, parrot):
    tables = _infer(run, tmp_path / "out", parrot(max_items=2))
    asked = _asked(tmp_path)
    assert len(asked) == len(set(asked)) == 2 * 40  # one item or the last two, from two perspectives
    assert tables["llm/long"].height > 40


def test_a_second_run_asks_nothing(run, tmp_path, parrot):
    first = _infer(run, tmp_path / "a", parrot())
    before = len(_asked(tmp_path))
    second = _infer(run, tmp_path / "b", parrot())
    assert len(_asked(tmp_path)) == before
    assert second["llm/long"]["cached"].all()
    for name, table in first.items():
        assert table.drop("cached").equals(second[name].drop("cached"))
    assert store.read_json(tmp_path / "b" / "infer.json")["asked"] == 0


def test_a_budget_of_prompts_answers_whole_samples_only(run, tmp_path, parrot):
    tables = _infer(run, tmp_path / "a", parrot(budget="25"))
    assert len(_asked(tmp_path)) == 24  # the twenty-fifth would be half a sample
    assert {table.height for table in tables.values()} == {12}
    assert len({tuple(table["key"]) for table in tables.values()}) == 1
    more = _infer(run, tmp_path / "b", parrot(budget="25"))
    assert len(_asked(tmp_path)) == 48
    assert set(tables["llm/long"]["key"]) < set(more["llm/long"]["key"])
    assert more["llm/long"].height == 24


def test_a_budget_of_time_stops_in_time(run, tmp_path, parrot):
    began = time.monotonic()
    tables = _infer(run, tmp_path / "a", parrot(budget="1s", pause=0.05))
    assert 0 < tables["llm/long"].height < 60
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        (None, Budget()),
        ("none", Budget()),
        ("20000", Budget(prompts=20000)),
        ("90s", Budget(seconds=90)),
        ("30m", Budget(seconds=1800)),
        ("1.5h", Budget(seconds=5400)),
    ],
)
def test_budgets(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "-3", "5 minutes", "2d", "1.5"])
def test_a_wrong_budget_says_what_is_possible(text):
    with pytest.raises(ConfigError, match="expected prompts"):
        parse_budget(text)


def test_shuffled_stays_within_the_split_and_item_text_is_the_sessions_own(run, tmp_path, parrot):
    tables = _infer(run, tmp_path / "out", parrot())
    samples = Distinct.of(load(run / "prepare"))
    own, other = tables["llm/long"], tables["shuffled/long"]
    for split in samples.splits.values():
        rows = own["key"].is_in(samples.keys[list(split)].tolist())
        assert rows.sum() == len(split) > 0
        assert sorted(own.filter(rows)["parsed"]) == sorted(other.filter(rows)["answer"])
    assert not own["parsed"].equals(other["parsed"])
    title = samples.prefixes[0][-1].text
    assert tables["item-text/short"]["parsed"][0] == title


def test_controls_work_in_parts_of_a_split(run, tmp_path, parrot, monkeypatch):
    whole = _infer(run, tmp_path / "whole", parrot())
    monkeypatch.setattr("llm4sbr.asking.tables.CONTROL_BLOCK", 7)
    tables = _infer(run, tmp_path / "parts", parrot())
    for name in ("item-text/long", "item-text/short", "llm/long"):
        assert tables[name].drop("cached").sort("key").equals(whole[name].drop("cached").sort("key"))
    own, other = (tables[name].sort("key") for name in ("llm/long", "shuffled/long"))
    assert not other.equals(whole["shuffled/long"].sort("key"))
    samples = Distinct.of(load(run / "prepare"))
    for split in samples.splits.values():  # of every split, every third sample, say, changes answers
        steps = -(-len(split) // 7)
        for start in range(steps):
            rows = own["key"].is_in(samples.keys[list(split)[start::steps]].tolist())
            assert sorted(own.filter(rows)["parsed"]) == sorted(other.filter(rows)["answer"])
    counted = store.read_json(tmp_path / "parts" / "infer.json")["sources"]
    for name, table in tables.items():
        source, view = name.split("/")
        assert counted[source][view]["distinct"] == table["parsed"].n_unique()


def test_a_control_may_be_the_llm_and_is_not_repeated(run, tmp_path):
    config = build({"infer": {"llm": "item-text"}})
    tables = _infer(run, tmp_path / "out", config)
    assert {name.split("/")[0] for name in tables} == {"llm", "shuffled"}
    assert tables["llm/long"].height == len(Distinct.of(load(run / "prepare")).keys)


def test_what_is_missing_comes_once_and_in_the_order_of_the_samples(run, parrot):
    config = parrot(max_items=2)
    questions = Questions.of(load(run / "prepare"), config.infer)
    prompts = [text for row in range(len(questions.samples.keys)) for text in questions.prompts(row)]
    wanted = {answer_key("parrot", text): text for text in prompts}
    assert len(wanted) < len(prompts)
    assert list(missing_prompts(run, config)) == list(wanted.items())
    known = list(wanted)[1::2]
    with AnswerCache.open(config.infer.cache) as cache:
        cache.put_many({key: Answer("a", 0.0, 0) for key in known}, llm="parrot")
    assert list(missing_prompts(run, config)) == list(wanted.items())[::2]


def test_without_an_llm_there_are_no_answers(run, tmp_path):
    assert _infer(run, tmp_path / "out", build({})) == {}
    assert store.read_json(tmp_path / "out" / "infer.json") == {"llm": "none", "sources": {}}


def test_infer_json_counts_and_shows_an_example(run, tmp_path, parrot):
    tables = _infer(run, tmp_path / "out", parrot(budget="40"))
    summary = store.read_json(tmp_path / "out" / "infer.json")
    long = summary["sources"]["llm"]["long"]
    assert (summary["asked"], summary["distinct"], summary["answered"]) == (40, 40, 20)
    assert summary["samples"] == len(Distinct.of(load(run / "prepare")).keys)
    assert summary["fingerprint"] == "parrot"
    assert (long["answers"], long["empty"], long["cached"]) == (20, 0, 0)
    assert long["example"]["prompt"].startswith("The order in which users click")
    assert long["example"]["answer"] == tables["llm/long"]["answer"][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llm": "item-text", "attributes": ["colour"]}, "no 'colour'; they have: category"),
        ({"llm": "item-text", "controls": ["qwen-7b"]}, "'qwen-7b' is an LLM, not a control"),
        ({"llm": "shuffled"}, "choose an LLM beside it"),
    ],
)
def test_wrong_settings_are_one_line(run, tmp_path, settings, message):
    with pytest.raises(Llm4sbrError, match=message) as caught:
        _infer(run, tmp_path / "out", build({"infer": settings}))
    assert "\n" not in str(caught.value)


def test_a_wrong_control_is_noticed_before_anything_is_asked(run, tmp_path, parrot):
    with pytest.raises(ConfigError, match="not a control"):
        _infer(run, tmp_path / "out", parrot(controls=["qwen-7b"]))
    assert _asked(tmp_path) == []


class Mute:
    fingerprint = "mute"

    def generate(self, prompts):
        return list(prompts)[1:]


def test_an_llm_that_loses_a_prompt_is_caught(tmp_path):
    with AnswerCache.open(tmp_path / "a.sqlite") as cache:
        with pytest.raises(Llm4sbrError, match="gave 1 answers to 2 prompts"):
            Asker(Mute(), cache, budget=Budget()).ask([0], lambda _: ["a", "b"])
        assert len(cache) == 0


CHILD = """
import sys
from pathlib import Path
from llm4sbr.config import build, read_toml
from llm4sbr.progress import Progress
from llm4sbr.asking.questions import Questions, missing_prompts
from llm4sbr.stages.infer import infer
run, out, settings = map(Path, sys.argv[1:])
out.mkdir(exist_ok=True)
infer(run, out, build(read_toml(settings)), Progress(quiet=True))
"""


@pytest.mark.slow
def test_kill_9_loses_the_batch_in_flight_and_nothing_else(run, tmp_path, parrot):
    expected = _infer(run, tmp_path / "undisturbed", parrot(cache="other"))
    distinct = len(_asked(tmp_path))
    (tmp_path / "asked.txt").unlink()
    config = parrot(pause=0.01)
    settings = tmp_path / "settings.toml"
    settings.write_text(to_toml(to_settings(config)))
    command = [sys.executable, "-c", CHILD, str(run), str(tmp_path / "out"), str(settings)]
    rng = random.Random(0)
    for kills in range(1, 4):
        before = len(_asked(tmp_path))
        child = subprocess.Popen(command, env=os.environ)
        wanted, deadline = before + rng.randint(5, 50), time.monotonic() + 120
        while len(_asked(tmp_path)) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
        with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
            kept = len(cache)
        assert kept >= wanted - 4 * kills  # a batch is four prompts
    before = len(_asked(tmp_path))
    tables = _infer(run, tmp_path / "out", parrot())
    assert len(_asked(tmp_path)) - before == distinct - kept
    for name, table in expected.items():
        assert table.select("key", "answer", "parsed").equals(tables[name].select("key", "answer", "parsed"))


def test_an_answer_is_kept_whole_as_far_as_files_can_take_it(tmp_path):
    texts = {"half": "a\ud800b", "zero": "a\0b", "long": "x" * 300_000}

    class Odd:
        fingerprint = "odd"

        def generate(self, prompts):
            return [texts[prompt] for prompt in prompts]

    with AnswerCache.open(tmp_path / "answers.sqlite") as cache:
        Asker(Odd(), cache, budget=Budget()).ask(range(3), lambda sample: [list(texts)[sample]])
        kept = {row[1].text for row in cache.rows()}
        assert kept == {"a?b", "a\0b", "x" * 100_000}
        file = tmp_path / "answers.jsonl.gz"
        assert export_answers(cache, file) == 3
    with AnswerCache.open(tmp_path / "other.sqlite") as other:
        assert import_answers(other, file) == (3, 3)
        assert {row[1].text for row in other.rows()} == kept
