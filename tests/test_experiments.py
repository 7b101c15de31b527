"""The paper's experiments on toy data: what cells share, what fails, what is recorded and shown."""

from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path

import pytest

from llm4sbr import pipeline, store
from llm4sbr.cli import _guarded
from llm4sbr.errors import StoreError
from llm4sbr.experiments.runner import failures
from llm4sbr.progress import Progress
from llm4sbr.report.terminal.experiment import experiment_tables
from llm4sbr.report.terminal.layout import show

sys.path.insert(0, str(Path(__file__).parent))
from toy_experiments import inode, quiet, request_of, toy_data

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_data(tmp_path_factory.mktemp("experiments"))


@pytest.fixture(scope="module")
def localization(base: Path) -> Path:
    folder = base / "localization"
    quiet(folder, request_of(base, "localization", f=(0, 2)))
    return folder


def test_the_record_holds_every_cell_with_its_metrics(localization: Path) -> None:
    content = store.read_json(localization / "experiment.json")
    assert content["experiment"] == "localization"
    assert [cell["axes"]["f"] for cell in content["cells"]] == [0, 2]
    for cell in content["cells"]:
        assert cell["status"] == "done"
        assert cell["metrics"] == store.read_json(localization / cell["run"] / "evaluate" / "metrics.json")
        names = [row["name"] for row in cell["metrics"]["rows"]]
        assert names == ["popularity", "plain", "item-item", "llm", "shuffled", "none"]
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


@pytest.mark.slow
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
    assert "toy, protocol default: Percent over" in printed
    assert "toy, protocol paper: Percent over" in printed
    assert printed.count("BEST EPOCH CHOSEN ON THE TEST SET") == 1
    assert printed.count("The paper's split leaks here") == 1
    assert printed.count("popularity") - printed.count("popularity (") == 2  # beside the verdicts


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


@pytest.mark.slow
def test_an_ablation_trains_the_plain_backbone_once(base: Path) -> None:
    folder = base / "ablation"
    content = quiet(folder, request_of(base, "ablation", backbones=("stamp",)))
    assert not failures(content)
    runs = [folder / cell["run"] for cell in content["cells"]]
    assert len({inode(run / "train/plain/seed-0/model.safetensors") for run in runs}) == 1
    assert len({inode(run / "train/llm/seed-0/model.safetensors") for run in runs}) == 5
    assert {cell["axes"]["part"] for cell in content["cells"]} >= {"whole", "without long"}


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


def test_a_folder_of_something_else_is_refused(base: Path, localization: Path) -> None:
    with pytest.raises(
        StoreError, match="contains the experiment localization; name another folder for table2"
    ):
        quiet(localization, request_of(base, "table2"))
    with pytest.raises(StoreError, match="contains other files and no experiment"):
        quiet(base / "log", request_of(base, "table2"))


@pytest.mark.slow
def test_memory_trains_each_model_in_a_process_of_its_own(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm4sbr.training.job.train_model", None)  # this process trains nothing
    content = quiet(base / "memory", request_of(base, "memory", backbones=("stamp",)))
    assert not failures(content)
    rows = {row["name"]: row for row in content["cells"][0]["metrics"]["rows"]}
    assert all(rows[name]["peak_memory"] > 2**24 for name in ("plain", "llm", "shuffled", "none"))
    show(*experiment_tables(content))


def test_the_table_shows_baselines_once_and_the_papers_figures(localization: Path, capsys: Output) -> None:
    content = store.read_json(localization / "experiment.json")
    for cell in content["cells"]:
        cell["paper"] = {"plain": {"HR@20": 0.1301}, "source": "the paper"}
    show(*experiment_tables(content))
    printed = capsys.readouterr().out
    assert sum(line.lstrip().startswith("popularity ") for line in printed.splitlines()) == 1
    assert printed.count("sr-gnn, shuffled intents") == 2
    assert printed.count("sr-gnn, plain") == printed.count("13.01") == 1  # the cells share it
    assert printed.count("By MRR@20") == 2
    assert max(map(len, printed.splitlines())) <= 100


def test_a_cell_is_an_ordinary_run(localization: Path) -> None:
    run = localization / "runs/toy-default-sr-gnn-long.short-f2"
    before = inode(run / "evaluate/stage.json")
    pipeline.execute(run, {}, progress=Progress(quiet=True))
    assert inode(run / "evaluate/stage.json") == before


@pytest.mark.slow
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


def test_varied_settings_are_rows_of_one_table_and_share_what_they_do_not_decide(base: Path) -> None:
    folder = base / "varied"
    asked = request_of(base, "table2", backbones=("sr-gnn",), vary={"train.intent_dropout": [0.0, 0.5]})
    content = quiet(folder, asked)
    runs = [folder / cell["run"] for cell in content["cells"]]
    assert [cell["status"] for cell in content["cells"]] == ["done", "done"]
    assert [(run / "resolved.toml").read_text().count("intent_dropout = 0.5") for run in runs] == [0, 1]
    plain, fused = "train/plain/seed-0/model.safetensors", "train/llm/seed-0/model.safetensors"
    assert inode(runs[0] / plain) == inode(runs[1] / plain)
    assert inode(runs[0] / fused) != inode(runs[1] / fused)
    before = inode(runs[1] / fused)
    assert quiet(folder, asked)["cells"] == content["cells"]
    assert inode(runs[1] / fused) == before
    said = io.StringIO()
    show(*experiment_tables(content), file=said)
    assert "intent_dropout 0.0" in said.getvalue()
    assert "intent_dropout 0.5" in said.getvalue()
    assert "intent_dropout 0.5" in (folder / "report.html").read_text()
