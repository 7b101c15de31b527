"""Bad input at the command line: one clear line each, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import llm4sbr.training.step
from llm4sbr import pipeline, registry
from llm4sbr.cli import _guarded
from llm4sbr.config import nest
from llm4sbr.errors import Llm4sbrError
from llm4sbr.fusion.saved import load_model
from llm4sbr.progress import Progress
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log

Output = pytest.CaptureFixture[str]
Command = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path) -> Command:
    """`run("train", "--epochs", "2", sessions=3)`: a stage of `tmp_path/run`, on a toy log."""

    def command(stage: str, *arguments: str, sessions: int = 60) -> int:
        if not (tmp_path / "log").exists():
            toy_log(tmp_path / "log", sessions=sessions)
        every = [stage, str(tmp_path / "run"), "--dataset", "csv", "--data", str(tmp_path / "log")]
        every += ["--set", "data.min_item_count=1"]
        if stage != "prepare" and not (tmp_path / "run" / "config.toml").exists():
            log = {"data.reader": "csv", "data.path": str(tmp_path / "log"), "data.min_item_count": 1}
            pipeline.execute(tmp_path / "run", nest(log), until="prepare", progress=Progress(quiet=True))
        if stage == "train":
            every += ["--workers", "1", "--set", "train.dim=8"]
        return _guarded([*every, *arguments])

    return command


def error_of(capsys: Output) -> str:
    """The one line that says what is wrong; nothing is on standard output."""
    printed = capsys.readouterr()
    assert not printed.out
    assert "Traceback" not in printed.err
    (line,) = [line for line in printed.err.splitlines() if "error" in line]
    assert printed.err.splitlines()[-1] == line
    assert line.startswith("error: ")
    return line


def test_f_larger_than_the_catalogue(run: Command, tmp_path: Path, capsys: Output) -> None:
    encoder = f"transformers:{tiny_bert(tmp_path / 'bert')}"
    capsys.readouterr()
    arguments = ["--llm", "item-text", "--encoder", encoder]
    assert run("localize", *arguments, "-f", "21") == 2
    assert "localize.f = 21: the catalogue has only 20 items; set localize.f to 20 or less" in error_of(
        capsys
    )
    assert not (tmp_path / "run" / "localize").exists()
    assert run("localize", *arguments, "-f", "20", "--quiet") == 0


@pytest.mark.parametrize("sessions", [1, 2])
def test_data_too_small_for_a_temporal_split(
    run: Command, tmp_path: Path, capsys: Output, sessions: int
) -> None:
    assert run("prepare", sessions=sessions) == 2
    line = error_of(capsys)
    assert f"(0 training sessions, 0 items) of {sessions} sessions under data.split=temporal" in line
    assert "choose --set data.split=random" in line
    assert not (tmp_path / "run" / "prepare").exists()


def test_random_is_no_way_out_of_random(run: Command, capsys: Output) -> None:
    assert run("prepare", "--split", "random", sessions=2) == 2
    line = error_of(capsys)
    assert "under data.split=random: the data is too small" in line
    assert "choose" not in line


def test_empty_validation_split(run: Command, tmp_path: Path, capsys: Output) -> None:
    assert run("train", "--epochs", "2", "--set", "data.valid=0") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "validation" in line]
    assert said == ["train: no validation samples, so the last epoch is kept; raise data.valid to have some"]
    assert load_model(tmp_path / "run/train/plain/seed-0").facts["best_epoch"] == 2
    assert run("evaluate", "--quiet", "--set", "evaluate.k=[5]") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "last epoch kept, since there are no validation samples" in shown


def test_session_with_unknown_items(run: Command, tmp_path: Path, capsys: Output) -> None:
    assert run("train", "--epochs", "1", "--quiet") == 0
    capsys.readouterr()
    recommend = ["recommend", str(tmp_path / "run"), "--session"]
    assert _guarded([*recommend, "Casablanca", "--unknown", "fail"]) == 2
    assert "Casablanca" in error_of(capsys)
    assert _guarded([*recommend, "Casablanca"]) == 0
    assert "these are the items with most clicks" in capsys.readouterr().out
    for session in ("Red Lamp (1990) | Casablanca", "Casablanca | i01"):
        assert _guarded([*recommend, session, "--unknown", "fail"]) == 2
        assert "Casablanca" in error_of(capsys)
        assert _guarded([*recommend, session]) == 0
        assert "'Casablanca' left out: no item is called so" in capsys.readouterr().out
    assert _guarded([*recommend, " , "]) == 2
    assert "session" in error_of(capsys)


def test_loss_that_is_no_number_at_once(run: Command, tmp_path: Path, capsys: Output) -> None:
    assert run("train", "--set", "train.learning_rate=1e30") == 2
    line = error_of(capsys)
    assert "the loss of epoch 1, batch " in line
    assert "lower train.learning_rate (now 1e+30); no epoch was finished" in line
    assert not (tmp_path / "run" / "train").exists()


def test_loss_that_becomes_no_number_leaves_the_last_good_model(
    run: Command, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, real = [], llm4sbr.training.step.joint_loss

    def broken(*arguments: object, **options: object) -> object:
        steps.append(1)
        losses = real(*arguments, **options)  # type: ignore[arg-type]
        # Three batches an epoch: the second batch of the second epoch.
        return losses._replace(total=losses.total * torch.nan) if len(steps) == 5 else losses

    monkeypatch.setattr(llm4sbr.training.step, "joint_loss", broken)
    assert run("train", "--epochs", "9", "--set", "train.batch_size=100") == 2
    line = error_of(capsys)
    assert "the loss of epoch 2, batch 2 is not a finite number" in line
    folder = tmp_path / "run/train.tmp/plain/seed-0"
    assert f"the model of epoch 1 is in {folder}" in line
    kept = load_model(folder)
    assert kept.facts["epochs"] == 1
    assert all(bool(value.isfinite().all()) for value in kept.model.state_dict().values())
    assert not (tmp_path / "run" / "train").exists()


def test_item_without_a_title(run: Command, tmp_path: Path, capsys: Output) -> None:
    items = toy_log(tmp_path / "log") / "items.csv"
    items.write_text(items.read_text().replace("Blue Chair (1991)", ""))
    assert run("prepare", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["mended"]["items without a title"] == 1
    assert "mended: 1 items without a title" in printed.err.splitlines()


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("sr-gnn", {"steps": -1}, "steps = -1: at least one round"),
        ("gc-san", {"blocks": 0}, "blocks = 0"),
        ("gc-san", {"omega": float("nan")}, "omega = nan"),
        (
            "narm",
            {"embedding_dropout": 2.0},
            "backbone 'narm'.* cannot be made: ValueError: dropout .* got 2.0",
        ),
    ],
)
def test_values_that_a_backbone_cannot_use_are_one_line(backbone: str, options: dict, message: str) -> None:
    with pytest.raises(Llm4sbrError, match=message) as caught:
        registry.create("backbones", backbone, num_items=5, dim=4, **options)
    assert "\n" not in str(caught.value)
