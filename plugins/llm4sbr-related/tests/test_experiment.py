"""The experiment `related`: all rows in one table, with what they take and the sentence that each tests."""

from __future__ import annotations

import json
import os

import pytest

from llm4sbr.cli import _guarded
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.llms import tiny_llama
from llm4sbr.testing.toy import toy_log

SMALL = {
    "data.min_item_count": 1,
    "train.dim": 8,
    "train.workers": 1,
    "infer.controls": '["shuffled"]',
    "evaluate.k": "[5]",
    "evaluate.samples": 2,
    "evaluate.llm_options.max_new_tokens": 2,
    "train.baselines": '["popularity", "list-wise", "gpt4rec", "po4isr"]',
    "train.baseline_options.list-wise.candidates": 3,
    "train.baseline_options.po4isr": "{candidates = 3, examples = 2, depth = 0}",
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    base = tmp_path_factory.mktemp("related")
    toy_log(base / "log")
    tiny_bert(base / "bert")
    llama = tiny_llama(base / "llama")
    own = {"infer.cache": base / "answers.sqlite", "evaluate.llm": f"transformers:{llama}"}
    chosen = [word for key, value in (SMALL | own).items() for word in ("--set", f"{key}={value}")]
    data = ["--dataset", f"toy=csv:{base / 'log'}", "--epochs", "1", "-q"]
    encoder = ["--encoder", f"transformers:{base / 'bert'}"]
    return ["experiment", "related", str(base / "out"), *data, *encoder, *chosen]


@pytest.mark.slow
def test_every_row_says_what_it_takes_and_which_sentence_it_tests(arguments, capsys):
    assert _guarded(arguments) == 0
    printed = capsys.readouterr().out
    assert "All systems, in percent, lists of 5" in printed
    assert "The same 2 samples, which an LLM was asked about" in printed
    assert '"optimizes product retrieval separately through a search engine"' in " ".join(printed.split())
    folder = arguments[2]
    with open(f"{folder}/experiment.json") as file:
        first, *others = json.load(file)["cells"]
    rows = {row["name"]: row for row in first["metrics"]["rows"]}
    assert set(rows) >= {
        "popularity",
        "list-wise",
        "gpt4rec",
        "po4isr",
        "plain",
        "text-init",
        "llm",
        "shuffled",
    }
    assert all(row["seconds"] is not None and row["peak_memory"] > 2**20 for row in rows.values())
    assert all(rows[name]["asked"]["prompts"] > 0 for name in ("list-wise", "gpt4rec", "po4isr"))
    assert [one["axes"]["part"] for one in others] == ["CTRL", "SPRINT"]
    assert all(one["status"] == "done" for one in others)
    ctrl = {row["name"]: row for row in others[0]["metrics"]["rows"]}
    assert set(ctrl) == {"plain", "item-item", "llm", "shuffled"}
    assert ctrl["plain"]["metrics"] == rows["plain"]["metrics"]  # the backbone that they share
    assert others[0]["metrics"]["without_intents"] == 0  # CTRL is served without text
    same = first["metrics"]["asked_samples"]
    assert same["samples"] == 2
    for name in ("list-wise", "gpt4rec"):  # all have answers to both samples
        assert same["metrics"][name] == pytest.approx(rows[name]["asked"]["with"])
    # The command goes on: nothing is asked, fitted or trained again.
    parts = [f"{folder}/{first['run']}/{path}/stage.json" for path in ("train", "evaluate")]
    before = [os.stat(path).st_ino for path in parts]
    assert _guarded([*arguments, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["cells"][0]["metrics"] == first["metrics"]
    assert [os.stat(path).st_ino for path in parts] == before


def test_without_an_llm_the_rows_that_ask_are_refused_before_anything(arguments, capsys, tmp_path):
    at = next(place for place, word in enumerate(arguments) if word.startswith("evaluate.llm="))
    command = [*arguments[:2], str(tmp_path / "out"), *arguments[3 : at - 1], *arguments[at + 1 :]]
    assert _guarded(command) == 2
    assert "list-wise asks an LLM, and evaluate.llm = none is none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
