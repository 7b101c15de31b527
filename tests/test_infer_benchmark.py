"""`benchmarks/infer.py` and `driver.py`: what they measure, and the tables made from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm4sbr.testing.llms import tiny_llama
from llm4sbr.testing.toy_run import toy_run

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import infer_tables

    yield infer_tables
    for name in ("infer", "infer_tables"):
        sys.modules.pop(name, None)


def measured(script: str, *options: object, folder: Path) -> tuple[dict, str]:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, options)]
    command += ["--json", str(folder / "found.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads((folder / "found.json").read_text()), done.stdout


@pytest.mark.slow
def test_every_way_of_asking_is_measured(tmp_path):
    run, model = toy_run(tmp_path / "run", sources=()), tiny_llama(tmp_path / "llama")
    options = ["--threads", "1", "--size", "24", "--rounds", "1", "--llm", f"transformers:{model}"]
    options += ["--options", '{"dtype": "float32", "max_new_tokens": 3, "batch_size": 4}']
    found, table = measured("infer.py", run, *options, folder=tmp_path)
    ways = ["one", "batched", "sorted", "shared", "once"]
    assert [(row["set"], row["way"]) for row in found["rows"]] == [
        (name, way) for name in ("distinct", "repeated") for way in ways
    ]
    assert found["sets"]["distinct"]["prompts"] == found["sets"]["distinct"]["distinct"] == 24
    assert found["sets"]["repeated"]["distinct"] == 4
    assert found["sets"]["repeated"]["prompts"] > 2 * 4
    assert all(one["wall"] > 0 and one["cpu"] > 0 for row in found["rows"] for one in row["rounds"])
    assert all(row["rounds"][0]["same"] == 1 for row in found["rows"])  # in float32 no answer changes
    assert table.count("| repeated | 1 |") == 5


@pytest.mark.slow
def test_the_drivers_memory_is_measured_by_part(tmp_path):
    found, table = measured("driver.py", "--prompts", "4000,20000", "--engines", "local", folder=tmp_path)
    assert [row["prompts"] for row in found["rows"]] == [4000, 20000]
    for row in found["rows"]:
        assert row["before"] > 2**24
        assert row["cache"] > 40 * row["prompts"]  # every prompt has an answer there
        assert set(row["peaks"]) >= {"infer: planning", "infer"}
    assert "| 20,000 | local |" in table


def test_ratios_and_shares_by_hand(tables):
    def row(way: str, *seconds: float) -> dict:
        rounds = [{"cpu": one, "wall": 99.0, "same": 1.0} for one in seconds]
        return {"threads": 1, "set": "distinct", "way": way, "rounds": rounds}

    rows = [
        row("one", 16, 32),
        row("batched", 8, 16),
        row("sorted", 8, 16),
        row("shared", 4, 8),
        row("once", 1, 2),
    ]
    cells = tables._lines({one["way"]: one for one in rows}, 32)
    assert [line[3] for line in cells] == ["1.50", "3.00", "3.00", "6.00", "24.00"]  # medians of two rounds
    assert [line[4] for line in cells[1:]] == ["2.00", "1.00", "2.00", "4.00"]
    assert [line[5] for line in cells[1:]] == ["2.00", "2.00", "4.00", "16.00"]
    assert [line[6] for line in cells[1:]] == ["25%", "0%", "25%", "50%"]  # of four doublings


def test_the_largest_part_of_a_group_counts(tables):
    peaks = {"load": 3, "infer: planning": 4, "after infer: planning": 6, "infer": 5, "after infer": 9}
    row = {"prompts": 4000, "engine": "ray", "seconds": 60.0, "before": 2 * 2**20, "cache": 7 * 2**20}
    found = {"command": "c", "cpu": "x", "cores": 2, "gpus": [], "load": 0.0, "versions": {}}
    found["rows"] = [row | {"peaks": {name: size * 2**20 for name, size in peaks.items()}}]
    assert tables.driver_part(found).splitlines()[-1] == (
        "| 4,000 | ray | 1.0 | 67 | 1 MB | 4 MB | 3 MB | 7 MB | 7 MB |"
    )
