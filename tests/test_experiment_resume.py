"""Experiments side by side, and those that are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llm4sbr import store
from llm4sbr.experiments.runner import failures

sys.path.insert(0, str(Path(__file__).parent))
from toy_experiments import inode, quiet, request_of, toy_data, wait


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_data(tmp_path_factory.mktemp("experiments"))


@pytest.mark.slow
def test_cells_side_by_side_find_what_they_find_one_by_one(base: Path) -> None:
    request = request_of(base, "table2", backbones=("stamp", "narm"))
    one, two = base / "one", base / "two"
    quiet(one, request)
    assert not failures(quiet(two, request, jobs=2))
    for cell in store.read_json(one / "experiment.json")["cells"]:
        ranks = [folder / cell["run"] / "evaluate/ranks.safetensors" for folder in (one, two)]
        assert store.file_sha256(ranks[0]) == store.file_sha256(ranks[1])


@pytest.mark.slow
def test_a_worker_that_dies_is_recorded_and_the_same_command_mends_it(base: Path) -> None:
    request = request_of(
        base, "table2", backbones=("stamp", "narm"), settings={"train": {"epochs": 40, "patience": 40}}
    )
    folder = base / "dying"

    def kill() -> None:
        wait(lambda: any(folder.glob("runs/*/train.tmp/plain/seed-0/log.jsonl")))
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    content = quiet(folder, request, jobs=2)
    killer.join()
    assert len(failures(content)) == 2
    assert "a worker process died (SIGKILL)" in failures(content)[0]
    assert not failures(quiet(folder, request))


@pytest.mark.slow
def test_killed_experiment_goes_on_where_it_stopped(base: Path) -> None:
    """`kill -9` in training: finished models stay, and the results are those of an undisturbed run."""
    folder = base / "killed"
    request = request_of(
        base, "localization", f=(0, 2), backbones=("stamp",), settings={"train": {"epochs": 3}}
    )
    code = (
        "import sys, json\nfrom llm4sbr.experiments.grid import Request, Dataset\n"
        "from llm4sbr.experiments.runner import run_experiment\nfrom pathlib import Path\n"
        "given = json.loads(sys.argv[2])\ngiven['datasets'] = [Dataset(*one) for one in given['datasets']]\n"
        "given['perspectives'] = [tuple(one) for one in given['perspectives']]\n"
        "run_experiment(Path(sys.argv[1]), Request(**given))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), json.dumps(request._asdict())], stderr=subprocess.DEVNULL
    )
    first = folder / "runs/toy-default-stamp-long.short-f0"
    finished = first / "train.tmp/plain/seed-0/stage.json"  # its files are whole, hashed and named
    wait(lambda: finished.exists() or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = inode(first / "train.tmp/plain/seed-0/model.safetensors")
    content = quiet(folder, request)
    assert inode(first / "train/plain/seed-0/model.safetensors") == before
    undisturbed = quiet(base / "undisturbed", request)
    for killed, other in zip(content["cells"], undisturbed["cells"], strict=True):
        for mine, theirs in zip(killed["metrics"]["rows"], other["metrics"]["rows"], strict=True):
            assert mine["metrics"] == theirs["metrics"]
