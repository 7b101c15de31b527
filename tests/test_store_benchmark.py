"""The benchmark of stored intents: all formats keep the same vectors, and ratios are what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def store(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "store", raising=False)
    import store

    return store


def test_every_format_gathers_what_it_was_given(store, tmp_path):
    vectors, keys = store.vectors(30, 5, share=0.5, seed=0), store.keys(0, 30, 30)
    assert len(vectors.unique(dim=0)) <= 15
    rows = torch.tensor([29, 0, 7, 7])
    for name, kind in store.FORMATS.items():
        folder = tmp_path / name
        folder.mkdir()
        kind.write(folder, keys, vectors)
        found = kind.open(folder)(rows)
        assert found.dtype == torch.float32, name
        precision = 1e-3 if name == "store" else 1e-7
        torch.testing.assert_close(found, vectors[rows], atol=precision, rtol=0, msg=name)


def test_keys_of_blocks_are_the_keys_of_the_whole(store):
    parts = [store.keys(start, start + 1000, 4000) for start in range(0, 4000, 1000)]
    whole = torch.cat(parts)
    assert (whole.diff() > 0).all()
    assert whole[0] < -(2**62)
    assert whole[-1] > 2**62


def test_ratios_are_times_the_intent_store(store):
    from store_tables import formats_table

    def row(name, share, size, load):
        return {
            "share": share,
            "format": name,
            "bytes": size,
            "load": load,
            "gather": 0.00004,
            "memory": 1e6,
        }

    rows = [row("store", 1.0, 2e6, 0.004), row("lists", 1.0, 7e6, 1.5), row("store", 0.1, 1e6, 0.002)]
    lines = formats_table([*rows, row("lists", 0.1, 7e6, 1.5)]).splitlines()
    lists = "text lists, parsed when loaded"
    assert lines[3] == (f"| 100% | {lists} | 7.0 MB | 3.5 | 1,500 ms | 375 | 0.040 ms | 1 | 1.0 MB |")
    assert lines[5] == f"| 10% | {lists} | 7.0 MB | 7 | 1,500 ms | 750 | 0.040 ms | 1 | 1.0 MB |"


@pytest.mark.slow
def test_a_small_one_from_end_to_end(tmp_path):
    options = ["--rows", "50", "--dim", "8", "--shares", "0.1", "--scale", "5000x4", "--rounds", "1"]
    (tmp_path / "work").mkdir()
    folders = ["--folder", str(tmp_path / "work"), "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "store.py"), *options, *folders],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads((tmp_path / "store.json").read_text())
    assert [row["rows"] for row in found["scale"]] == [5000]
    assert all(row["open"] > 0 and row["by_key"] > 0 for row in found["scale"])
    assert len(found["formats"]) == 6
    assert done.stdout.count("| 10% |") == 6
    assert str(tmp_path) not in json.dumps(found)
    assert not list((tmp_path / "work").iterdir())  # nothing is left behind
