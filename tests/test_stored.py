"""`llm4sbr intents`: what is shown is what was stored, and damage is one line and exit code 2."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch

from llm4sbr.cli import main
from llm4sbr.data.prepared import load
from llm4sbr.intents import IntentStore
from llm4sbr.serving import inspect
from llm4sbr.testing.toy_run import toy_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("stored") / "run")


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def answered(run):
    """A test sample with an answer: its key, the titles of its prefix, and its target's title."""
    prepared, store = load(run / "prepare"), IntentStore.open(run / "localize/llm")
    test = prepared.samples["test"]
    index = int((store.rows(test.key) >= 0).nonzero()[0])
    titles = prepared.catalogue.titles
    target = titles[int(prepared.sessions.items[test.end[index]]) - 1]
    return int(test.key[index]), [titles[id - 1] for id in prepared.prefix(test, index)], target


def test_a_session_is_shown_with_the_items_it_was_tied_to(run, capsys):
    key, session, target = answered(run)
    expected = [{"key": key, "session": session}]
    for chosen in (["--key", key], ["--session", " | ".join(session)]):
        code, out, _ = call(capsys, "intents", "show", run, *chosen, "--json")
        found = json.loads(out)
        assert code == 0
        assert [{name: one[name] for name in ("key", "session")} for one in found] == expected
        for intent, name in zip(found[0]["perspectives"], ("long", "short"), strict=True):
            assert intent["perspective"] == name
            assert [(item["title"], item["weight"]) for item in intent["items"]] == [(target, 1.0)]
    code, out, _ = call(capsys, "intents", "show", run, "--key", key)
    assert out.startswith(f"{' | '.join(session)}, key")
    assert out.count(f"{target} ") == 2
    assert "1.00" in out


def test_the_answer_stands_beside_what_it_was_tied_to(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",))
    key, _, _ = answered(run)
    (run / "infer/llm").mkdir(parents=True)
    pl.DataFrame({"key": [key], "parsed": ["Any Lamp"]}).write_parquet(run / "infer/llm/short.parquet")
    assert [one["answer"] for one in inspect.show(run, key=key)[0]["perspectives"]] == ["", "Any Lamp"]


def test_without_a_session_some_are_shown(run, capsys):
    assert len(inspect.show(run, source="shuffled", count=4)) == 4
    assert len(inspect.show(run, count=10**6)) == len(IntentStore.open(run / "localize/llm"))
    assert call(capsys, "intents", "show", run)[1].count(", key") == 3


def test_stats_count_rows_and_coverage(run, capsys):
    code, out, _ = call(capsys, "intents", "stats", run, "--json")
    found = {one["source"]: one for one in json.loads(out)}
    assert code == 0
    assert list(found) == ["llm", "item-text", "shuffled"]
    prepared, llm = load(run / "prepare"), found["llm"]
    keys = torch.cat([samples.key for samples in prepared.samples.values()]).unique()
    assert llm["rows"] == sum(place % 5 > 0 for place in range(len(keys)))  # every fifth has no answer
    assert llm["intents"] == 2 * llm["rows"]
    assert llm["distinct"] <= prepared.catalogue.size  # the toy's intents are the items' vectors
    assert (llm["dim"], llm["dtype"], llm["shards"]) == (8, "float16", 2)
    files = (run / "localize/llm").glob("*.safetensors")
    assert llm["bytes"] == sum(path.stat().st_size for path in files)
    assert set(llm["covered"]) == {"train", "valid", "test"}
    assert all(0.6 < share < 1 for share in llm["covered"].values())
    out = call(capsys, "intents", "stats", run)[1]
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["llm", "item-text", "shuffled"]


def test_verify_says_what_is_whole(run, capsys):
    code, out, _ = call(capsys, "intents", "verify", run, "--json")
    assert code == 0
    assert [(one["source"], one["shards"]) for one in json.loads(out)] == [
        ("llm", 2),
        ("item-text", 2),
        ("shuffled", 2),
    ]
    assert "item-text" in call(capsys, "intents", "verify", run)[1]


def flip(run):
    path = run / "localize/item-text/intents-00000.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 128
    path.write_bytes(changed)


def remove(run):
    (run / "localize/item-text/keys-00000.safetensors").unlink()


def foreign(run):
    other = toy_run(run.with_name("other"), items=19)
    (run / "localize").rename(run / "before")
    (other / "localize").rename(run / "localize")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "intents-00000.safetensors: changed since it was written"),
        (remove, "keys-00000.safetensors: No such file"),
        (foreign, "made for another catalogue"),
    ],
)
def test_verify_finds_damage(tmp_path, capsys, damage, message):
    run = toy_run(tmp_path / "run", sources=("llm", "item-text"))
    damage(run)
    code, out, err = call(capsys, "intents", "verify", run)
    assert (code, out) == (2, "")
    assert message in err
    assert f"run llm4sbr localize {run} --force" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "none"], "--source none: "),
        (["--key", "5"], "--key 5: no answer of llm is stored"),
        (["--session", "Nonsense"], "Nonsense"),
        (["--session", "a", "--key", "5"], "--session or --key, not both"),
    ],
)
def test_what_cannot_be_shown_is_one_line(run, capsys, arguments, message):
    code, out, err = call(capsys, "intents", "show", run, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "verify", "stats"])
def test_a_run_without_intents(tmp_path, capsys, command):
    run = toy_run(tmp_path / "run", sources=())
    code, _, err = call(capsys, "intents", command, run)
    assert code == 2
    assert err == f"error: {run}: no intents; run llm4sbr localize {run} --llm NAME first\n"
