"""`benchmarks/peers.py`: both sides get the same samples, and the table made from what they took.

RecBole itself is not installed here: a stand-in with the few names that the benchmark uses takes its place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm4sbr.testing.toy_run import toy_run

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

STAND_IN = {
    "config.py": """
class Config(dict):
    def __init__(self, model, dataset, config_dict):
        super().__init__(config_dict, model=model, dataset=dataset, MODEL_TYPE="sequential")
""",
    "data.py": """
import pathlib
import torch

class Batch(list):
    def __getitem__(self, index):
        return Batch(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

class Loader:
    def __init__(self, rows, size):
        self.dataset, self.batches = rows, [Batch(rows[i : i + size]) for i in range(0, len(rows), size)]

    def __iter__(self):
        return iter(self.batches)

def create_dataset(config):
    file = pathlib.Path(config["data_path"], "peer", "peer.train.inter")
    return [line.split("\\t") for line in file.read_text().splitlines()[1:]]

def data_preparation(config, dataset):
    pathlib.Path("log_tensorboard").mkdir()
    (pathlib.Path(__file__).parent / "seen.inter").write_text("\\n".join(map("|".join, dataset)))
    return Loader(dataset, config["train_batch_size"]), None, None
""",
    "utils.py": """
import torch

class Model:
    def __init__(self, config, dataset): pass
    def eval(self): pass
    def train(self): pass
    def full_sort_predict(self, sessions): return torch.zeros(len(sessions), 50)

class Trainer:
    def __init__(self, config, model): self.model = model
    def _train_epoch(self, loader, epoch):
        for batch in loader: torch.zeros(300, 300) @ torch.zeros(300, 300)

def get_model(name): return Model
def get_trainer(kind, name): return Trainer
def init_seed(seed, reproducible): pass
""",
}


@pytest.fixture
def recbole(tmp_path: Path) -> dict[str, str]:
    """The environment in which the stand-in is found."""
    site = tmp_path / "site"
    (site / "recbole").mkdir(parents=True)
    (site / "recbole" / "__init__.py").write_text("")
    for name, source in STAND_IN.items():
        (site / "recbole" / name).write_text(source)
    info = site / "recbole-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recbole\nVersion: 0\n")
    return os.environ | {"PYTHONPATH": str(site)}


@pytest.mark.slow
def test_both_train_on_the_same_samples(tmp_path, recbole):
    run = toy_run(tmp_path / "run", sessions=500)
    options = ["--python", sys.executable, "--backbones", "stamp", "--threads", "1", "--rounds", "2"]
    command = [sys.executable, str(BENCHMARKS / "peers.py"), str(run), *options, "--batches", "2"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "found.json")],
        env=recbole, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (row["backbone"], row["peer"], len(row["rounds"])) == ("stamp", "STAMP", 2)
    assert all(one[kind]["cpu"] > 0 for one in row["rounds"] for kind in ("plain", "intents", "peer", "list"))
    assert "| stamp / STAMP | 1 |" in done.stdout
    from llm4sbr.data.prepared import load

    prepared = load(run / "prepare")
    clicks, part = prepared.sessions.items.tolist(), prepared.samples["train"]
    there = {
        (" ".join(map(str, clicks[start:end])), str(clicks[end]))
        for start, end in zip(part.start.tolist(), part.end.tolist(), strict=True)
    }
    seen = [
        tuple(line.split("|")[1:])
        for line in (tmp_path / "site" / "recbole" / "seen.inter").read_text().splitlines()
    ]
    assert len(seen) == 3 * 100  # with the batch that warms up
    assert set(seen) <= there
    assert {one.name for one in tmp_path.iterdir()} == {"site", "run", "found.json"}


def test_recbole_runs_where_its_logs_go_away(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers_recbole

    where = []
    monkeypatch.setattr(peers_recbole, "answer_for", lambda ready, ask: where.append(Path.cwd()))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    monkeypatch.setattr(peers_recbole.warnings, "simplefilter", lambda kind: None)
    monkeypatch.setattr(peers_recbole.logging, "disable", lambda level: None)
    monkeypatch.setattr(peers_recbole.torch, "set_num_threads", lambda count: None)
    before = Path.cwd()
    peers_recbole.main({"folder": str(tmp_path), "threads": 1})
    assert where == [tmp_path.resolve()]
    assert Path.cwd() == before


def test_the_first_batch_is_warm_up(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers_recbole

    ticks = iter([(1.0, 1.0), (4.0, 3.0)])
    monkeypatch.setattr(peers_recbole.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(peers_recbole.time, "process_time", lambda: next(cpu))
    wall, cpu = map(iter, zip(*ticks, strict=True))
    timed = peers_recbole.Timed([[0] * 9, [0] * 8, [0] * 7, [0] * 6], 3)
    assert [len(batch) for batch in timed] == [9, 8, 7]
    assert timed.samples == 15
    assert timed.marks == [(1.0, 1.0), (4.0, 3.0)]


def test_the_table_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from peers_tables import peers_part

    def one(plain, intents, peer):
        slow = {"cpu": peer, "wall": 1.0, "list_cpu": 0.5, "list_wall": 9.0}
        return {
            "plain": {"cpu": plain, "wall": 7.0}, "intents": {"cpu": intents, "wall": 7.0},
            "peer": slow, "list": {"cpu": 0.125, "wall": 3.0},
        }  # fmt: skip

    row = {"backbone": "sr-gnn", "peer": "SRGNN", "threads": 1, "versions": {"recbole": "0"}}
    row["rounds"] = [one(600, 300, 100), one(1000, 800, 200), one(500, 450, 50)]  # 6, 5, 10 and 3, 4, 9 times
    found = {"measured_samples": 2000, "catalogue": 50, "cpu": "x", "cores": 2, "load": 0.0, "versions": {}}
    last = peers_part(found | {"command": "c", "rows": [row]}).splitlines()[-1]
    assert last == ("| sr-gnn / SRGNN | 1 | 100/s | 600/s | 6.0 | 450/s | 4.0 | 0.50 ms | 0.12 ms | 4.0 |")
