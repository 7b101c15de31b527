"""`llm4sbr answers` and `--dry-run` on the command line: what they print, and that nothing is asked."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from llm4sbr.asking.cache import Answer, AnswerCache, answer_key
from llm4sbr.cli import _guarded
from llm4sbr.config import flatten, read_toml
from llm4sbr.testing.toy import toy_log

Output = pytest.CaptureFixture[str]

ONE, TWO, THREE = (answer_key("llm", text) for text in "abc")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "answers.sqlite"
    with AnswerCache.open(path) as opened:
        opened.put_many(
            {ONE: Answer("Lamp", 0.5, 7), TWO: Answer("", 1.5, 3)}, llm="qwen, greedy", added=1000.0
        )
        opened.put_many({THREE: Answer("Rug", 2.0, 5)}, llm="llama, greedy", added=time.time())
    return path


def said(capsys: Output, *arguments: object) -> str:
    """What a command that ends well prints."""
    assert _guarded(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_stats(cache: Path, capsys: Output) -> None:
    found = json.loads(said(capsys, "answers", "--cache", cache, "stats", "--json"))
    assert (found["cache"], found["bytes"]) == (str(cache), cache.stat().st_size)
    counts = [(one["llm"], one["answers"], one["seconds"], one["tokens"]) for one in found["llms"]]
    assert counts == [("qwen, greedy", 2, 2.0, 10), ("llama, greedy", 1, 2.0, 5)]
    table = said(capsys, "answers", "--cache", cache, "stats")
    assert "qwen, greedy" in table
    assert "llama, greedy" in table


def test_stats_of_nothing_is_one_line(tmp_path: Path, capsys: Output) -> None:
    assert _guarded(["answers", "--cache", str(tmp_path / "none"), "stats"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: no answer cache there yet")
    assert not (tmp_path / "none").exists()


def test_export_of_one_llm_and_import_twice(cache: Path, tmp_path: Path, capsys: Output) -> None:
    file, other = tmp_path / "qwen.jsonl.gz", tmp_path / "other.sqlite"
    assert (
        said(capsys, "answers", "--cache", cache, "export", file, "--llm", "qwen") == f"{file}: 2 answers\n"
    )
    assert json.loads(said(capsys, "answers", "--cache", cache, "export", file, "--json")) == {"exported": 3}
    first = said(capsys, "answers", "--cache", other, "import", file)
    assert first == f"{file}: 3 answers, 3 of them new\n"
    again = said(capsys, "answers", "--cache", other, "import", file, "--json")
    assert json.loads(again) == {"read": 3, "new": 0}
    with AnswerCache.open(other) as opened:
        assert opened.get_many([ONE, THREE]) == {ONE: Answer("Lamp", 0.5, 7), THREE: Answer("Rug", 2.0, 5)}


def test_a_bad_file_adds_nothing(cache: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert _guarded(["answers", "--cache", str(cache), "import", str(tmp_path / "bad.jsonl")]) == 2
    assert "bad.jsonl:1: key: None" in capsys.readouterr().err
    with AnswerCache.open(cache) as opened:
        assert len(opened) == 3


def test_prune(cache: Path, capsys: Output) -> None:
    prune = ["answers", "--cache", cache, "prune"]
    assert said(capsys, *prune, "--older-than", "90d", "--dry-run") == "2 answers would be dropped\n"
    assert said(capsys, *prune, "--llm", "llama", "--older-than", "1d") == "0 answers dropped\n"
    assert json.loads(said(capsys, *prune, "--llm", "qwen", "--json")) == {"pruned": 2, "dry_run": False}
    assert said(capsys, *prune, "--all") == "1 answers dropped\n"
    with AnswerCache.open(cache) as opened:
        assert len(opened) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "say what to drop"),
        (["--all", "--llm", "x"], "say what to drop"),
        (["--older-than", "3y"], "expected a time such as"),
    ],
    ids=["nothing", "all of one", "years"],
)
def test_prune_says_what_it_needs(cache: Path, capsys: Output, given: list[str], message: str) -> None:
    assert _guarded(["answers", "--cache", str(cache), "prune", *given]) == 2
    assert message in capsys.readouterr().err
    with AnswerCache.open(cache) as opened:
        assert len(opened) == 3


MUTE = """
class Mute:
    fingerprint, max_new_tokens, price = "mute", 6, (1.0, 2.0)

    def generate(self, prompts):
        raise AssertionError("asked")
"""


def test_a_dry_run_plans_and_asks_nothing(install, tmp_path: Path, capsys: Output) -> None:
    install("mute-llm", {"llms": {"mute": "mute:Mute"}}, mute=MUTE)
    toy_log(tmp_path / "log")
    run, cache = tmp_path / "run", tmp_path / "answers.sqlite"
    command = ["infer", run, "--dataset", "csv", "--data", tmp_path / "log", "--llm", "mute", "--dry-run"]
    command += ["--set", "data.min_item_count=1", "--set", f"infer.cache={cache}", "--llm-budget", "20"]
    said(capsys, "prepare", *command[1:6], "-q")
    plan = json.loads(said(capsys, *command, "--json"))
    assert plan["prompts"] == 2 * plan["samples"]
    assert plan["samples"] <= plan["distinct"] <= plan["prompts"]
    assert (plan["cached"], plan["ask"], plan["within_budget"]) == (0, plan["distinct"], 20)
    assert plan["seconds"] is None  # nobody knows yet how long an answer takes
    assert plan["cost"] == pytest.approx((plan["tokens"] + 20 * 6) / 1e6, abs=0.01)
    sentence = said(capsys, *command)
    assert f"{plan['prompts']:,} prompts about {plan['samples']:,} samples" in sentence
    assert "20 within the budget" in sentence
    assert not (run / "infer").exists()
    with AnswerCache.open(cache) as opened:
        assert len(opened) == 0
    kept = flatten(read_toml(run / "config.toml"))
    assert kept["data.min_item_count"] == 1
    assert not [key for key in kept if key.startswith("infer")], "a dry run has chosen an LLM"


def test_a_dry_run_without_an_llm(tmp_path: Path, capsys: Output) -> None:
    toy_log(tmp_path / "log")
    command = ["infer", tmp_path / "run", "--dataset", "csv", "--data", tmp_path / "log", "--dry-run"]
    command += ["--set", "data.min_item_count=1"]
    said(capsys, "prepare", *command[1:6], "-q")
    assert said(capsys, *command) == "no LLM is asked; choose one with --llm\n"
    assert json.loads(said(capsys, *command, "--json")) is None
