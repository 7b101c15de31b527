"""Benchmarks of latency and memory: fair turns, honest figures, and lines for what cannot be measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def latency():
    import latency

    return latency


def turn(latency, *milliseconds):
    return latency.Turn(list(milliseconds), [2 * one for one in milliseconds])


def test_a_ratio_is_the_median_of_the_rounds_ratios(latency):
    one = [turn(latency, 2, 2), turn(latency, 40, 40), turn(latency, 3, 3)]
    other = [turn(latency, 1, 1), turn(latency, 20, 20), turn(latency, 1, 1)]
    assert latency.ratio(one, other, 1) == 2  # rounds: 2, 2, 3; a slow moment met both
    assert latency.ratio(one, other, 2) == 2


def test_figures_of_a_row(latency):
    floor = latency.Contestant(1000, 1, "floor", "plain")
    exact, small = floor._replace(engine="onnx"), floor._replace(engine="onnx-int8")
    fused = exact._replace(variant="intents")
    turns = {floor: [turn(latency, 1)], exact: [turn(latency, *range(1, 301))]}
    turns |= {small: [turn(latency, 10, 10)], fused: [turn(latency, *range(2, 602, 2))]}
    row = latency.row(exact, 8, turns)
    assert (row["p50"], row["p90"], row["p99"], row["calls"]) == (150, 270, 297, 300)
    assert row["to_floor"] == 150.5
    assert row["to_fp32"] is None
    assert latency.row(small, 8, turns)["to_fp32"] == pytest.approx(10 / 150.5, abs=1e-4)
    assert latency.row(small, 8, turns)["p99"] is None  # two calls tell no 99th percentile
    assert latency.row(fused, 8, turns)["to_plain"] == 2


def test_calls_end_after_their_number_or_their_time():
    from latency_child import timed

    asked = iter(range(1000))
    assert len(timed(lambda _: time.sleep(0.001), asked, calls=5, seconds=10)["wall"]) == 5
    slow = timed(lambda _: time.sleep(0.02), asked, calls=100, seconds=0.01)
    assert len(slow["wall"]) == 2
    assert min(slow["wall"]) >= 20
    assert max(slow["cpu"]) < 15  # sleeping takes none


@pytest.mark.parametrize("variant", ["plain", "intents"])
def test_sessions_are_the_same_for_all_and_padded_at_the_end(variant):
    from engines import batches

    lengths = [3, 1, 2, 5] * 10
    made = batches(20, 2, iter(lengths).__next__, variant=variant, count=2)
    assert [batch.items.shape for batch in made] == [(2, 1), (2, 5), (2, 3), (2, 5)]
    assert [(batch.items > 0).sum(1).tolist() for batch in made] == [[1, 1], [5, 5], [3, 1], [2, 5]]
    for batch in made:
        assert 1 <= batch.items[batch.items > 0].min() <= batch.items.max() <= 20
        assert (batch.items[:, 1:] > 0).sum() <= (batch.items[:, :-1] > 0).sum()
        assert (batch.intents is None) == (variant == "plain")
    again = batches(20, 2, iter(lengths).__next__, variant=variant, count=2)
    assert all(np.array_equal(one.items, other.items) for one, other in zip(made, again, strict=True))


def test_what_needs_a_gpu_or_more_memory_says_so(latency, monkeypatch):
    options = latency.arguments(["--sizes", "100,1m", "--engines", "onnx,onnx-cuda,eager", "--threads", "1"])
    monkeypatch.setattr(latency, "spare_memory", lambda: 2**31)
    groups, left = latency.plan(options, gpu=False)
    assert all(group[0].engine == "floor" for group in groups)
    measured = {(one.items, one.engine) for group in groups for one in group[1:]}
    assert measured == {(100, "onnx"), (100, "eager"), (1_000_000, "eager")}
    reasons = {(one["items"], one["engine"]): one["not_measured"] for one in left}
    assert reasons[100, "onnx-cuda"] == "no GPU"
    assert reasons[1_000_000, "onnx"].startswith("needs 3 GB of memory, 2 GB are free")
    assert "--engines onnx-cuda" in left[0]["command"]
    assert [len(group) for group in groups] == [5, 2, 2]  # at 1m one after the other, each with the floor


def test_a_gpu_is_measured_once_whatever_the_threads(latency):
    options = latency.arguments(["--sizes", "100", "--engines", "onnx,onnx-cuda", "--variants", "plain"])
    groups, left = latency.plan(options, gpu=True)
    assert [[one.engine for one in group] for group in groups] == [
        ["floor", "onnx", "onnx-cuda"],
        ["floor", "onnx"],
    ]
    assert not left


def test_an_unknown_engine_is_refused(latency, capsys):
    with pytest.raises(SystemExit):
        latency.arguments(["--engines", "onnx,abacus"])
    assert "unknown: abacus" in capsys.readouterr().err


@pytest.mark.slow
def test_engines_take_turns_in_processes_of_their_own(latency):
    given = ["--sizes", "60", "--batches", "1,2", "--threads", "1", "--engines", "eager,onnx-cuda"]
    given += ["--variants", "plain", "--samples", "20", "--minutes", "0.02"]
    found = latency.results(latency.arguments(given), lambda text: None)
    assert json.loads(json.dumps(found)) == found
    assert [(one["batch"], one["engine"]) for one in found["rows"]] == [
        (1, "floor"),
        (1, "eager"),
        (2, "floor"),
        (2, "eager"),
    ]
    for row in found["rows"]:
        assert 6 <= row["calls"] <= 20
        assert 0 < row["p50"] <= row["p90"]
        assert row["peak"] > 2**26
    eager = found["rows"][1]
    assert eager["to_floor"] > 1
    assert eager["same_lists"] == 1
    assert [one["not_measured"] for one in found["not_measured"]] == ["no GPU"]
    from latency_tables import latency_part

    text = latency_part(found)
    assert "| 1 | 2 | PyTorch |" in text
    assert "| not measured: no GPU | `pip install 'llm4sbr[onnx-gpu]' && python benchmarks/latency.py" in text


def test_a_process_that_serves_an_artefact_has_no_pytorch():
    code = "import sys, latency_child, memory; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=True)


def test_a_process_that_dies_is_named(tmp_path):
    from processes import Child

    script = tmp_path / "dies.py"
    script.write_text("import sys; print('{}', flush=True); sys.stdin.readline(); sys.exit(3)")
    with Child(str(script), {"name": "x"}, threads=1) as child:
        assert child.ready == {}
        with pytest.raises(SystemExit, match=r"'name': 'x'.*ended with 3"):
            child.ask(batch=1)


@pytest.mark.parametrize(("to_floor", "said"), [(1.3, "reached, 1.30 times"), (1.31, "MISSED, 1.31 times")])
def test_aims_are_told_whether_reached_or_missed(to_floor, said):
    from latency_tables import aims

    row = {"items": 1_000_000, "threads": 2, "engine": "onnx", "variant": "plain", "batch": 1}
    row |= {"to_floor": to_floor, "to_fp32": None, "to_plain": None}
    words = "fp32 takes at most 1.3 times the floor"
    assert aims([row, row | {"batch": 8}]) == f"- 1,000,000 items, 2 threads: {words}: {said}."


def experiment(folder, **changes):
    rows = [
        {"name": "popularity", "kind": "baseline", "label": "popularity"},
        {"name": "plain", "kind": "plain", "label": "sr-gnn, plain", "peak_memory": 800e6},
        {"name": "llm", "kind": "intents", "label": "sr-gnn, intents", "peak_memory": 840e6},
    ]
    cell = {"axes": {"dataset": "ml-1m", "backbone": "sr-gnn"}, "status": "done", "run": "runs/a"}
    cell |= {"paper": {"memory": {"plain": 1224e6, "llm": 1304e6}}, "metrics": {"rows": rows}}
    content = {"experiment": "memory", "cells": [cell, cell | {"status": "failed", "metrics": None}]}
    (folder / "runs" / "a" / "prepare").mkdir(parents=True)
    pl.DataFrame({"id": range(1, 31)}).write_parquet(folder / "runs" / "a" / "prepare" / "items.parquet")
    (folder / "experiment.json").write_text(json.dumps(content | changes))
    return folder


def test_training_memory_is_the_experiments_beside_the_papers(tmp_path):
    import memory
    from memory_tables import training_table

    rows = list(memory.training_rows(experiment(tmp_path)))
    assert [row["name"] for row in rows] == ["plain", "llm"]
    assert memory.catalogues(tmp_path) == {"ml-1m": 30}
    last = training_table(rows).splitlines()[-1]
    assert last == (
        "| ml-1m | sr-gnn, intents | 840 MB | 1.050 | not measured: no GPU |  | 1,304 MB | 1.065 |"
    )


def test_another_experiment_is_refused(tmp_path):
    import memory

    with pytest.raises(SystemExit, match="no finished memory experiment"):
        list(memory.training_rows(experiment(tmp_path, experiment="table2")))


@pytest.mark.slow
def test_serving_memory_is_measured_or_said_to_be_missing(tmp_path):
    import memory
    from memory_tables import memory_part, serving_table

    engines = ("eager-cuda", "eager", "onnx-int8")
    found = memory.serving_rows(40, ["tagnn"], tmp_path, gpu=False, engines=engines, say=lambda text: None)
    rows = list(found)
    assert [row.get("not_measured", "")[:6] for row in rows] == ["no GPU"] * 2 + [""] * 2 + ["scores"] * 2
    assert all(row["resident"] >= row["anonymous"] > 2**24 for row in rows[2:4])
    lines = serving_table(rows).splitlines()
    assert lines[2] == "| 40 | tagnn | PyTorch, CUDA | not measured: no GPU |  |  |  |  |"
    assert lines[3].startswith("| 40 | tagnn | PyTorch | ")
    about = {"command": "x", "cpu": "CPU", "cores": 2, "gpus": [], "versions": {}, "catalogues": {}}
    part = memory_part(about | {"training": [], "serving": rows})
    assert part.endswith("`pip install 'llm4sbr[onnx-gpu]' 'llm4sbr[tensorrt]'`.")
