"""`benchmarks/intents.py`: what it measures, and that it goes on where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llm4sbr.testing.toy_run import toy_run

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def intents(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import intents

    yield intents
    for name in ("intents", "intents_tables"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm", "shuffled"))
    (run / "config.toml").write_text('[infer]\nllm = "embedded"\n', encoding="utf-8")
    return run


def options(intents, run, *, seeds=1, controls="shuffled"):
    quick = ["train.dim=8", "train.batch_size=32", "train.learning_rate=0.03", "train.epochs=8"]
    given = [
        str(run),
        "--fuser",
        "catalogue",
        "--seeds",
        str(seeds),
        "--controls",
        controls,
        "--json",
        str(run / "found.json"),
    ]
    given += [word for one in (*quick, "train.device=cpu") for word in ("--set", one)]
    return intents.arguments([*given, "--plain", "train.epochs=1"])


@pytest.mark.slow
def test_measures_the_rows_and_goes_on(intents, run):
    said = []
    found = intents.measure(options(intents, run), said.append)
    assert said == ["plain, seed 0", "catalogue, seed 0"]
    names = ["plain", "catalogue embedded", "catalogue shuffled"]
    assert [row["name"] for row in found["rows"]] == names
    assert (found["settings"]["plain"]["epochs"], found["settings"]["catalogue"]["epochs"]) == (1, 8)
    against = [(one["row"], one["against"]) for one in found["comparisons"]]
    assert against == [(names[1], names[2]), (names[1], "plain")]
    assert found["comparisons"][1]["MRR@20"]["gain"] > 0.2  # the plain one had one epoch
    assert str(run) not in json.dumps(found)

    weights = run / "intents" / "plain-0" / "train" / "plain" / "seed-0" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    more = intents.measure(options(intents, run, seeds=2, controls="shuffled,none"), said.append)
    assert weights.stat().st_mtime_ns == written
    assert json.loads((run / "found.json").read_text()) == json.loads(json.dumps(more))
    assert [row["name"] for row in more["rows"]] == [*names, "catalogue none"]
    assert [len(row["HR@20"]["values"]) for row in more["rows"]] == [2, 2, 2, 2]
    assert more["rows"][1]["MRR@20"]["values"][0] == found["rows"][1]["MRR@20"]["values"][0]


def test_groups_that_get_worse_are_named(intents):
    entry = {"name": "rare", "range": "1-5", "samples": 7, "rows": {"a": {"HR@20": 0.4}, "b": {"HR@20": 0.5}}}
    long = {"name": "", "range": "11+", "samples": 3, "rows": {"a": {"HR@20": 0.99}, "b": {"HR@20": 1.0}}}
    groups = intents.gains({"target": [entry], "length": [long]}, ("a", "b"))
    assert groups["target rare"] == {"samples": 7, "gain": pytest.approx(-0.2), "worse": True}
    assert not groups["length 11+"]["worse"]  # one percent is within the tolerance
    value = {"mean": 0.5, "std": 0.25}
    names = ["HR@20", "MRR@20", "rare HR@20", "rare MRR@20"]
    rows = [{"name": name} | dict.fromkeys(names, value) for name in ("a", "b")]
    one = (
        {"row": "a", "against": "b"} | {key: {"gain": -0.2, "p": 0.01} for key in names} | {"groups": groups}
    )
    text = intents.table({"rows": rows, "comparisons": [one]})
    assert "| a | 50.00 ± 25.00 |" in text
    assert "| a against b | -20.0% (p 0.01) |" in text
    assert text.endswith("| target rare -20.0% |")
