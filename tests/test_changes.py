"""Which test samples gain and lose by the intents: counts, examples, and what people are shown."""

from __future__ import annotations

import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llm4sbr.config import build
from llm4sbr.data.prepared import load
from llm4sbr.evaluation.changes import change_of, counts, greatest
from llm4sbr.intents import IntentStore
from llm4sbr.progress import Progress
from llm4sbr.report.changes import changes_table, examples, rule
from llm4sbr.report.terminal.changes import changes_parts
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.train import train
from llm4sbr.store import read_tensors
from llm4sbr.testing.toy_run import toy_run

QUIET = Progress(quiet=True)


def ranks(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_counts_by_hand():
    own = [ranks(1, 30, 5, 7, 2, 9), ranks(1, 30, 5, 7, 4, 9)]
    other = [ranks(2, 30, 25, 3, 3, 1), ranks(2, 30, 25, 30, 3, 1)]
    # change of the mean reciprocal rank: +1/2, 0, +4/25, 1/7 - 11/60 < 0, 3/8 - 1/3 > 0, and not known
    expected = [
        1 - 1 / 2,
        0,
        1 / 5 - 1 / 25,
        1 / 7 - (1 / 3 + 1 / 30) / 2,
        (1 / 2 + 1 / 4) / 2 - 1 / 3,
        -8 / 9,
    ]
    assert change_of(own, other).tolist() == pytest.approx(expected)
    known = torch.tensor([True, True, True, True, True, False])
    named = torch.tensor([True, True, False, True, False, True])
    assert counts(own, other, known, named, k=20) == {
        "gained": 3,
        "lost": 1,
        "same": 1,
        "found": 2,  # the third in both seeds, the fourth in one
        "missed": 0,
        "gained_named": 1,
        "lost_named": 1,
    }
    back = counts(other, own, known, named, k=20)
    assert (back["gained"], back["lost"], back["found"], back["missed"]) == (1, 3, 0, 2)


@given(st.permutations(range(1, 6)), st.integers(1, 10_000_000))
def test_equal_ranks_of_other_seeds_are_no_change(order, rank):
    own = [ranks(value * 7 + rank) for value in range(1, 6)]
    assert counts([own[at - 1] for at in order], own, ranks(1) > 0, ranks(1) > 0, k=20)["same"] == 1


def test_examples_are_the_greatest_changes_one_of_a_session():
    change = torch.tensor([0.5, 0.1, 0.5, 0.4, -0.2, 0.6, 0.0])
    known = torch.tensor([True, True, True, True, True, False, True])
    keys, sessions = ranks(9, 1, 3, 2, 4, 5, 6), ranks(1, 1, 2, 2, 3, 4, 5)
    assert greatest(change, known, keys, sessions) == [2, 0]  # the smaller key first; 3 and 1 have their turn
    assert greatest(change, known, keys, sessions, count=1) == [2]
    assert greatest(-change, known, keys, sessions) == [4]
    equal = ranks(9, 1, 9, 2, 4, 5, 6)  # samples 0 and 2 have the same prefix
    assert greatest(change, known, equal, sessions) == [0, 3]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A toy run whose intents tell the next item, trained far enough to use them."""
    run = toy_run(tmp_path_factory.mktemp("changes") / "run", sources=("llm",))
    chosen = {"dim": 8, "epochs": 4, "learning_rate": 0.02, "workers": 1, "device": "cpu", "neighbours": 0}
    chosen |= {"counted": ()}
    config = build({"infer": {"llm": "embedded", "controls": []}, "train": chosen, "evaluate": {"k": [3]}})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, stage in (("train", train), ("evaluate", evaluate)):
        (run / name).mkdir()
        stage(run, run / name, config, QUIET)
    torch.set_num_threads(before)
    return run


def test_what_a_run_says_is_in_its_ranks(evaluated):
    found = json.loads((evaluated / "evaluate/changes.json").read_text())
    prepared = load(evaluated / "prepare")
    test = prepared.samples["test"]
    known = IntentStore.open(evaluated / "localize/llm").rows_of(prepared.sessions, test) >= 0
    saved = read_tensors(evaluated / "evaluate/ranks.safetensors")
    own, plain = saved["llm/seed-0"], saved["plain/seed-0"]
    assert [one["name"] for one in found["over"]] == ["none", "plain"]
    assert found["samples"] == int(known.sum()) < len(known)
    of_plain = found["over"][1]
    assert of_plain["gained"] == int((known & (own < plain)).sum()) == of_plain["gained_named"]
    assert of_plain["lost"] == int((known & (own > plain)).sum())
    assert of_plain["found"] == int((known & (own <= 3) & (plain > 3)).sum())
    assert sum(of_plain[name] for name in ("gained", "lost", "same")) == found["samples"]
    assert found["over"][0]["gained"] > 0
    most = found["examples"]["gained"][0]
    places = [
        place
        for place in range(len(known))
        if known[place]
        and prepared.catalogue.titles[int(prepared.sessions.items[test.end[place]]) - 1] == most["target"]
        and [prepared.catalogue.titles[id - 1] for id in prepared.prefix(test, place)] == most["clicks"]
    ]
    assert most["ranks"] in [[int(own[place])] for place in places]
    assert most["ranks"][0] < most["ranks_without"][0]
    for answer in most["answers"]:
        assert answer["tied"] == [[most["target"], 1.0]]
        assert answer["answer"] == answer["parsed"] == ""  # the toy has no texts


def drawn(parts):
    console = Console(file=io.StringIO(), width=200)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


CHANGES = {
    "k": 20,
    "samples": 12,
    "over": [
        {"name": "none", "gained": 4, "lost": 3, "same": 5, "found": 2, "missed": 1}
        | {"gained_named": 1, "lost_named": 0},
        {"name": "plain", "gained": 0, "lost": 0, "same": 12, "found": 0, "missed": 0}
        | {"gained_named": 0, "lost_named": 0},
    ],
    "examples": {
        "gained": [
            {
                "clicks": ["A", "B", "C", "D"],
                "target": "E",
                "ranks": [2, 3],
                "ranks_without": [1340, 50],
                "answers": [
                    {
                        "perspective": "long",
                        "answer": "x" * 500,
                        "parsed": "x",
                        "tied": [["E", 0.75], ["F", 0.25]],
                    },
                    {"perspective": "short", "answer": "", "parsed": "", "tied": []},
                ],
            }
        ],
        "lost": [],
    },
}


def test_the_terminal_shows_who_gains_and_what_was_said():
    told = drawn(changes_parts(CHANGES, "embedded"))
    assert "12 test samples with an answer" in told
    assert "gained, rank 1,340, 50 -> 2, 3: E, after ... | B | C | D" in told
    assert f"  long: {'x' * 160} ...\n    tied to E 0.75, F 0.25\n  short: no usable answer" in told
    assert "against the same model without intents" in told
    assert "12 test samples with a text from item-text" in drawn(changes_parts(CHANGES, "item-text"))


def test_the_table_by_hand():
    table = changes_table(CHANGES, "embedded")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["the same model without intents", "4", "3", "5", "2", "1", "25%", "0%"],
        ["the plain backbone", "0", "0", "12", "0", "0", "-", "-"],
    ]
    assert [cell.text for cell in table.header][4:6] == ["into the 20", "out of the 20"]
    assert [one.kind for one in examples(CHANGES)] == ["gained"]
    assert "at most one of a session" in rule(CHANGES)
