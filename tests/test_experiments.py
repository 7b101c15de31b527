"""The paper's experiments: cells, what they share, resuming, failures, the paper's figures."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llm4sbr import pipeline, store
from llm4sbr.cli import _guarded
from llm4sbr.config import Settings, merge, nest
from llm4sbr.errors import ConfigError, RegistryError, StoreError
from llm4sbr.experiments import paper
from llm4sbr.experiments.grid import Dataset, Request, cells, parts
from llm4sbr.experiments.runner import failures, run_experiment
from llm4sbr.progress import Progress
from llm4sbr.report.experiment import experiment_tables
from llm4sbr.report.layout import show
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    toy_log(folder / "log")
    tiny_bert(folder / "bert")
    return folder


def request_of(base: Path, kind: str, *, settings: Settings | None = None, **axes: Any) -> Request:
    small = {
        "localize.encoder": f"transformers:{base / 'bert'}",
        "train.epochs": 1,
        "train.dim": 8,
        "train.workers": 1,
        "train.baselines": ["popularity"],
        "data.min_item_count": 1,
        "evaluate.k": [5, 20],
    }
    data = [Dataset("toy", "csv", str(base / "log"))]
    return Request(kind, data, settings=merge(nest(small), settings or {}), **axes)


def quiet(folder: Path, request: Request, **options: Any) -> dict[str, Any]:
    return run_experiment(folder, request, progress=Progress(quiet=True), **options)


@pytest.fixture(scope="module")
def localization(base: Path) -> Path:
    folder = base / "localization"
    quiet(folder, request_of(base, "localization", f=(0, 2)))
    return folder


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_table2_has_a_cell_per_data_set_protocol_and_backbone() -> None:
    datasets = [Dataset("a", "csv"), Dataset("b", "csv")]
    found = cells(Request("table2", datasets, ("default", "paper")))
    assert len(found) == 2 * 2 * 4
    assert found[0].name == "a-default-sr-gnn-long.short-f5"
    assert {one.settings["train"]["backbone"] for one in found} == {"sr-gnn", "tagnn", "gce-gnn", "s2-dhcn"}
    assert found[4].settings["protocol"] == "paper"
    assert all(one.settings["infer"]["llm"] == "item-text" for one in found)


def test_an_ablation_leaves_out_one_thing_at_a_time() -> None:
    found = {part.name: part for part in parts(("long", "short"))}
    assert found["without long"].perspectives == ("short",)
    assert found["without short"].perspectives == ("long",)
    assert found["normal only"].perspectives == ("normal",)
    assert found["without alignment"].settings == {"train.tau": 0.0}
    assert len(cells(Request("ablation", [Dataset("a", "csv")]))) == 5


def test_what_is_chosen_wins_over_the_kind_but_not_over_the_axes() -> None:
    chosen = nest({"train.epochs": 7, "train.backbone": "narm"})
    (cell,) = cells(Request("memory", [Dataset("a", "csv")], settings=chosen))
    assert cell.settings["train"] | {"baselines": []} == {
        "baselines": [],
        "epochs": 7,
        "seeds": 1,
        "backbone": "sr-gnn",
    }


def test_a_data_set_has_a_reader_a_path_and_a_name_of_its_own() -> None:
    assert Dataset.parse("ml-1m") == ("ml-1m", "ml-1m", None)
    assert Dataset.parse("ml-1m=data/x") == ("ml-1m", "ml-1m", "data/x")
    assert Dataset.parse("beauty=csv:data/x") == ("beauty", "csv", "data/x")
    with pytest.raises(RegistryError, match="no reader 'beauty' is installed"):
        Dataset.parse("beauty=data/x")


def test_wrong_axes_are_said_before_anything_runs(base: Path) -> None:
    with pytest.raises(RegistryError, match="did you mean 'sr-gnn'"):
        cells(request_of(base, "table2", backbones=("sr-gn",)))
    with pytest.raises(ConfigError, match="did you mean train"):
        cells(request_of(base, "table2", settings={"train": {"epoch": 1}}))
    with pytest.raises(ConfigError, match="protocol = 'papers'"):
        cells(request_of(base, "table2", protocols=("papers",)))
    with pytest.raises(ConfigError, match="is asked for twice"):
        cells(request_of(base, "table2", backbones=("sr-gnn", "sr-gnn")))


def test_the_record_holds_every_cell_with_its_metrics(localization: Path) -> None:
    content = store.read_json(localization / "experiment.json")
    assert content["experiment"] == "localization"
    assert [cell["axes"]["f"] for cell in content["cells"]] == [0, 2]
    for cell in content["cells"]:
        assert cell["status"] == "done"
        assert cell["metrics"] == store.read_json(localization / cell["run"] / "evaluate" / "metrics.json")
        names = [row["name"] for row in cell["metrics"]["rows"]]
        assert names == ["popularity", "plain", "llm", "shuffled", "none"]
        assert cell["training"]["plain"] == [{"seed": 0, "epochs": 1, "best_epoch": 1}]
        assert "path" not in cell["settings"]["data"]
    assert content["hardware"]["cores"] == os.cpu_count()
    assert content["versions"]["backbones/sr-gnn"].startswith("llm4sbr==")


def test_cells_share_stages_and_the_models_that_f_cannot_change(localization: Path) -> None:
    first, second = (localization / "runs" / f"toy-default-sr-gnn-long.short-f{f}" for f in (0, 2))
    shared = [f"{stage}/stage.json" for stage in ("prepare", "infer")]
    shared += [f"train/{variant}/seed-0/model.safetensors" for variant in ("plain", "none")]
    for path in shared:
        assert inode(first / path) == inode(second / path), path
    for path in ("localize/stage.json", "train/llm/seed-0/model.safetensors"):
        assert inode(first / path) != inode(second / path), path


def test_without_links_files_are_copied(
    base: Path, localization: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    folder = base / "copied"
    quiet(folder, request_of(base, "localization", f=(0, 2)))
    first, second = (folder / "runs" / f"toy-default-sr-gnn-long.short-f{f}" for f in (0, 2))
    path = "train/plain/seed-0/model.safetensors"
    assert (first / path).read_bytes() == (second / path).read_bytes()
    assert inode(first / path) != inode(second / path)


def test_both_protocols_have_tables_of_their_own(base: Path, capsys: Output) -> None:
    axes = {"protocols": ("default", "paper"), "backbones": ("stamp",)}
    content = quiet(base / "protocols", request_of(base, "table2", **axes))
    show(*experiment_tables(content))
    printed = " ".join(capsys.readouterr().out.split())
    assert "toy, protocol default: percent over" in printed
    assert "toy, protocol paper: percent over" in printed
    assert printed.count("BEST EPOCH CHOSEN ON THE TEST SET") == 1
    assert printed.count("The paper's split leaks here") == 1
    assert printed.count("popularity") == 2


def test_a_shared_model_is_what_the_cell_would_have_trained(base: Path, localization: Path) -> None:
    alone = base / "alone"
    quiet(alone, request_of(base, "localization", f=(2,)))
    name = "toy-default-sr-gnn-long.short-f2"
    mine, shared = (
        store.read_tensors(f / "runs" / name / "evaluate/ranks.safetensors") for f in (alone, localization)
    )
    assert {key: value.tolist() for key, value in mine.items()} == {
        key: value.tolist() for key, value in shared.items()
    }


def test_a_second_command_redoes_nothing(base: Path, localization: Path) -> None:
    before = {path: inode(path) for path in localization.glob("runs/*/*/stage.json")}
    assert len(before) == 10
    quiet(localization, request_of(base, "localization", f=(0, 2)))
    assert {path: inode(path) for path in localization.glob("runs/*/*/stage.json")} == before


def test_more_seeds_train_only_the_new_ones(base: Path) -> None:
    folder = base / "seeds"
    quiet(folder, request_of(base, "table2", backbones=("stamp",)))
    model = folder / "runs/toy-default-stamp-long.short-f5/train/llm/seed-0/model.safetensors"
    before = inode(model)
    content = quiet(
        folder, request_of(base, "table2", backbones=("stamp",), settings={"train": {"seeds": 2}})
    )
    assert inode(model) == before
    assert content["cells"][0]["metrics"]["seeds"] == 2


def test_an_ablation_trains_the_plain_backbone_once(base: Path) -> None:
    folder = base / "ablation"
    content = quiet(folder, request_of(base, "ablation", backbones=("stamp",)))
    assert not failures(content)
    runs = [folder / cell["run"] for cell in content["cells"]]
    assert len({inode(run / "train/plain/seed-0/model.safetensors") for run in runs}) == 1
    assert len({inode(run / "train/llm/seed-0/model.safetensors") for run in runs}) == 5
    assert {cell["axes"]["part"] for cell in content["cells"]} >= {"whole", "without long"}


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
        _wait(lambda: any(folder.glob("runs/*/train.tmp/plain/seed-0/log.jsonl")))
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    content = quiet(folder, request, jobs=2)
    killer.join()
    assert len(failures(content)) == 2
    assert "a worker process died (SIGKILL)" in failures(content)[0]
    assert not failures(quiet(folder, request))


def test_a_failing_cell_is_recorded_and_the_others_go_on(base: Path, capsys: Output) -> None:
    folder = base / "failing"
    broken = base / "nowhere"
    arguments = ["experiment", "table2", str(folder), "--dataset", f"gone=csv:{broken}"]
    arguments += ["--dataset", f"toy=csv:{base / 'log'}", "--backbone", "stamp", "--quiet", "--epochs", "1"]
    arguments += ["--encoder", f"transformers:{base / 'bert'}", "--set", "data.min_item_count=1"]
    assert _guarded([*arguments, "--set", "train.workers=1"]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"gone-default-stamp-long.short-f5: data.path: {broken} does not exist\n"
    assert "toy, protocol default" in printed.out
    assert printed.out.endswith(f"Report: {folder / 'report.html'}\n")
    assert "gone-default-stamp" in (folder / "report.html").read_text()
    status = [cell["status"] for cell in store.read_json(folder / "experiment.json")["cells"]]
    assert status == ["failed", "done"]


def test_dry_run_lists_the_cells_and_makes_nothing(base: Path, capsys: Output) -> None:
    folder = base / "dry"
    arguments = ["experiment", "localization", str(folder), "--dataset", "ml-1m", "--dry-run", "-f", "0,3"]
    assert _guarded(arguments) == 0
    assert capsys.readouterr().out.count("ml-1m-default-sr-gnn-long.short-f") == 2
    assert _guarded([*arguments, "--json"]) == 0
    assert [cell["axes"]["f"] for cell in json.loads(capsys.readouterr().out)] == [0, 3]
    assert _guarded(["experiment", "localization", str(folder), "--dry-run", "-f", "one"]) == 2
    assert "-f one: expected whole numbers" in capsys.readouterr().err
    assert not folder.exists()


def test_a_folder_of_something_else_is_refused(base: Path, localization: Path) -> None:
    with pytest.raises(StoreError, match="holds the experiment localization; name another folder for table2"):
        quiet(localization, request_of(base, "table2"))
    with pytest.raises(StoreError, match="holds other files and no experiment"):
        quiet(base / "log", request_of(base, "table2"))


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
    model = first / "train.tmp/plain/seed-0/model.json"
    _wait(lambda: model.exists() or process.poll() is not None)
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


def _wait(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow
def test_memory_trains_each_model_in_a_process_of_its_own(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm4sbr.stages.train.train_model", None)  # this process trains nothing
    content = quiet(base / "memory", request_of(base, "memory", backbones=("stamp",)))
    assert not failures(content)
    rows = {row["name"]: row for row in content["cells"][0]["metrics"]["rows"]}
    assert all(rows[name]["peak_memory"] > 2**24 for name in ("plain", "llm", "shuffled", "none"))
    show(*experiment_tables(content))


PAPER = {"protocol": "paper"}
ML1M = {"items": 3416, "clicks": 986_910, "rules": {"split": "paper", "prefixes": "last"}}
BEAUTY = {"items": 12_101, "clicks": 198_502, "rules": {"split": "paper", "prefixes": "all"}}


def axes(
    backbone: str = "sr-gnn", f: int = 5, perspectives: tuple[str, ...] = ("long", "short")
) -> dict[str, Any]:
    return {"backbone": backbone, "f": f, "perspectives": list(perspectives)}


def test_the_papers_figures_stand_beside_its_own_protocol_only() -> None:
    found = paper.figures(axes("tagnn"), PAPER, ML1M)
    assert found is not None
    assert found["plain"]["HR@20"] == pytest.approx(0.1028)
    assert found["llm"]["MRR@20"] == pytest.approx(0.0487)
    assert paper.figures(axes(), {"protocol": "default"}, ML1M) is None
    assert paper.figures(axes(), PAPER, ML1M | {"items": 3000}) is None
    assert paper.figures(axes("narm"), PAPER, ML1M) is None


def test_the_papers_intents_are_those_of_both_perspectives_and_f_of_5() -> None:
    only_long = paper.figures(axes(perspectives=("long",)), PAPER, ML1M)
    assert only_long is not None
    assert "llm" not in only_long
    third = paper.figures(axes(f=3), PAPER, ML1M)
    assert third is not None
    assert third["llm"] == {"HR@20": pytest.approx(0.1856)}


def test_the_printed_improvements_follow_from_the_printed_figures() -> None:
    """Table 2 prints relative improvements too: MRR@20 of ML-1M, and P@20 of Beauty."""
    table = {name: one["table2"] for name, one in paper.printed()["datasets"].items()}
    improvements = {
        ("ml-1m", "MRR@20"): {"sr-gnn": 64.89, "tagnn": 118.38, "gce-gnn": 16.94, "s2-dhcn": 25.73},
        ("beauty", "HR@20"): {"sr-gnn": 9.69, "tagnn": 10.04, "gce-gnn": 46.04, "s2-dhcn": -0.34},
    }
    for (dataset, metric), expected in improvements.items():
        for backbone, percent in expected.items():
            row = table[dataset][backbone]
            assert 100 * (row["llm"][metric] / row["plain"][metric] - 1) == pytest.approx(percent, abs=0.011)


def test_a_leaking_split_is_said() -> None:
    assert "leaks" in paper.notes(PAPER, BEAUTY)[0]
    assert paper.notes(PAPER, ML1M) == []


def test_the_table_shows_baselines_once_and_the_papers_figures(localization: Path, capsys: Output) -> None:
    content = store.read_json(localization / "experiment.json")
    content["cells"][1]["paper"] = {"plain": {"HR@20": 0.1301}, "source": "the paper"}
    show(*experiment_tables(content))
    printed = capsys.readouterr().out
    assert printed.count("popularity") == 1
    assert printed.count("sr-gnn, shuffled intents") == 2
    assert "13.01" in printed
    assert printed.count("By MRR@20") == 2
    assert max(map(len, printed.splitlines())) <= 100


def test_a_cell_is_an_ordinary_run(localization: Path) -> None:
    run = localization / "runs/toy-default-sr-gnn-long.short-f2"
    before = inode(run / "evaluate/stage.json")
    pipeline.execute(run, {}, progress=Progress(quiet=True))
    assert inode(run / "evaluate/stage.json") == before


def test_the_command_of_the_record_asks_for_the_same_cells(base: Path, localization: Path) -> None:
    text = store.read_json(localization / "experiment.json")["command"]
    assert str(base / "log") not in text
    words = shlex.split(text.replace("PATH", str(base / "log")).replace("FOLDER", str(base / "again")))
    assert words[0] == "llm4sbr"
    assert _guarded([*words[1:], "--quiet", "--json"]) == 0
    one, two = (store.read_json(folder / "experiment.json") for folder in (localization, base / "again"))
    assert [cell["settings"] for cell in one["cells"]] == [cell["settings"] for cell in two["cells"]]
    assert [cell["metrics"]["verdict"] for cell in one["cells"]] == [
        cell["metrics"]["verdict"] for cell in two["cells"]
    ]
