"""The command line, end to end on toy data: results, exit codes, one line per error."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llm4sbr.cli import _guarded
from llm4sbr.commands.options import SETTINGS
from llm4sbr.config import Config, flatten
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on toy data with item-text intents, through all stages."""
    base = tmp_path_factory.mktemp("cli")
    log, encoder, run = toy_log(base / "log"), tiny_bert(base / "bert"), base / "run"
    arguments = ["run", str(run), "--dataset", "csv", "--data", str(log), "--llm", "item-text"]
    arguments += ["--encoder", f"transformers:{encoder}", "--epochs", "2", "--workers", "1", "--quiet"]
    arguments += ["--set", "train.dim=8", "--set", "evaluate.k=[1,5,20]", "--set", "data.min_item_count=1"]
    assert _guarded([*arguments, "--json"]) == 0
    return run


def test_every_stage_leaves_its_folder(finished: Path) -> None:
    for stage in ("prepare", "infer", "localize", "train", "evaluate"):
        assert (finished / stage / "stage.json").exists()
    assert not list(finished.glob("*.tmp"))


def test_second_run_is_fresh_and_prints_the_table(finished: Path, capsys: Output) -> None:
    assert _guarded(["run", str(finished)]) == 0
    printed = capsys.readouterr()
    for stage in ("prepare", "infer", "localize", "train", "evaluate"):
        assert f"{stage}: fresh" in printed.err
    for row in ("popularity", "sr-gnn", "item-text", "shuffled", "no intents"):
        assert row in printed.out.lower()
    assert "HR@20 (P@20)" in printed.out


def test_a_run_tells_loggers_at_its_end(finished: Path, tmp_path: Path, capsys: Output) -> None:
    pytest.importorskip("tensorboard")
    assert _guarded(["run", str(finished), "--logger", "tensorboard", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["verdict"]
    assert printed.err == f"tensorboard: see it with: tensorboard --logdir {finished / 'tensorboard'}\n"
    assert (finished / "tensorboard" / finished.name / "plain/seed-0").is_dir()
    new = ["run", str(tmp_path / "new"), "--dataset", "csv", "--data", str(tmp_path)]
    assert _guarded([*new, "--logger", "tensorbord"]) == 2  # before the log is read
    assert "did you mean 'tensorboard'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_json_goes_to_stdout_alone(finished: Path, capsys: Output) -> None:
    assert _guarded(["evaluate", str(finished), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in metrics["rows"]]
    assert names[:5] == ["popularity", "item-knn", "vmis-knn", "slist", "plain"]
    assert {"llm", "shuffled", "none"} <= set(names)


@pytest.mark.parametrize("stage", ["prepare", "infer", "localize", "train"])
def test_each_stage_reports_in_json_and_for_people(finished: Path, stage: str, capsys: Output) -> None:
    assert _guarded([stage, str(finished), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert _guarded([stage, str(finished), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip()
    assert not printed.err


def test_recommend(finished: Path, capsys: Output) -> None:
    assert _guarded(["recommend", str(finished), "--session", "Red Lamp (1990), blue chair", "-k", "3"]) == 0
    table = capsys.readouterr().out
    assert _guarded(["recommend", str(finished), "--session", "i01, i02", "-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["items"]) == 3
    assert all(item["title"] in table for item in found["items"])
    assert not {"i01", "i02"} & {item["key"] for item in found["items"]}


def test_recommend_unknown_title(finished: Path, capsys: Output) -> None:
    assert _guarded(["recommend", str(finished), "--session", "Casablanca", "--unknown", "fail"]) == 2
    assert_one_line(capsys, "Casablanca")


def test_errors_are_one_line(tmp_path: Path, capsys: Output) -> None:
    assert (
        _guarded(["prepare", str(tmp_path / "run"), "--dataset", "csv", "--data", str(tmp_path / "no")]) == 2
    )
    assert_one_line(capsys, "does not exist")
    assert _guarded(["config", "--set", "train.dims=3"]) == 2
    assert_one_line(capsys, "did you mean train.dim?")
    assert _guarded(["plugins", "list", "backbone"]) == 2
    assert_one_line(capsys, "backbones")
    assert _guarded(["run", str(tmp_path / "run"), "--backbone", "sr-gn"]) == 2
    assert_one_line(capsys, "sr-gnn")


def test_k_beyond_the_catalogue(finished: Path, tmp_path: Path, capsys: Output) -> None:
    assert _guarded(["evaluate", str(finished), "--quiet", "--set", "evaluate.k=[5,5000]"]) == 2
    assert_one_line(capsys, "5000")
    assert _guarded(["evaluate", str(finished), "--quiet", "--set", "evaluate.k=[1,5,20]"]) == 0


def test_protocol_paper_is_named_wherever_its_numbers_are(tmp_path: Path, capsys: Output) -> None:
    arguments = [str(tmp_path / "run"), "--dataset", "csv", "--data", str(toy_log(tmp_path / "log"))]
    arguments += ["--protocol", "paper", "--epochs", "2", "--workers", "1", "--set", "train.dim=8"]
    arguments += ["--set", "evaluate.k=[5]"]
    assert _guarded(["run", *arguments]) == 0
    printed = capsys.readouterr()
    assert "\nPROTOCOL PAPER, but train.dim=8. Percent over" in printed.out
    shown = " ".join(printed.out.split())
    assert "BEST EPOCH CHOSEN ON THE TEST SET" in shown
    assert "with the best epoch chosen on the test set as in the paper" in shown
    assert "ON THE TEST SET" in printed.err
    assert _guarded(["train", str(tmp_path / "run"), "--quiet"]) == 0
    assert "TEST MRR@20" in capsys.readouterr().out
    assert _guarded(["evaluate", str(tmp_path / "run"), "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["protocol"], found["protocol_changes"]) == ("paper", ["train.dim=8"])
    assert (found["split"], found["selected_on"]) == ("paper", ["test"])


def test_list_and_config(capsys: Output) -> None:
    assert _guarded(["plugins", "list", "backbones", "--json"]) == 0
    assert "sr-gnn" in [c["name"] for c in json.loads(capsys.readouterr().out)]
    assert _guarded(["config", "--show", "--set", "train.dim=7"]) == 0
    assert "dim = 7" in capsys.readouterr().out


def test_help_shows_the_real_defaults() -> None:
    real = flatten(Config().model_dump(mode="json"))
    for setting in SETTINGS:
        value = real[setting.key]
        if value is not None:
            shown = ",".join(value) if isinstance(value, list) else str(value)
            assert setting.default == shown, setting.flag


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
import llm4sbr.cli
llm4sbr.cli._guarded(["run", "--help"])
print([name for name in ("torch", "transformers", "polars", "pydantic", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("command", ["run", "prepare", "infer", "recommend", "plugins", "config", "doctor"])
def test_every_option_has_help(command: str, capsys: Output) -> None:
    assert _guarded([command, "--help"]) == 0
    text = capsys.readouterr().out
    options = re.findall(r"^  (-\S.*)$", text, flags=re.M)
    assert options
    assert not [line for line in options if re.fullmatch(r"-\S+(, --\S+)?( \S+)?", line) and len(line) < 25]


@pytest.mark.slow
def test_ctrl_c_is_130_and_the_run_goes_on(tmp_path: Path) -> None:
    log, encoder, run = toy_log(tmp_path / "log"), tiny_bert(tmp_path / "bert"), tmp_path / "run"
    arguments = [sys.executable, "-m", "llm4sbr", "run", str(run), "--dataset", "csv", "--data", str(log)]
    arguments += ["--llm", "item-text", "--encoder", f"transformers:{encoder}", "--workers", "1"]
    arguments += ["--set", "data.min_item_count=1", "--set", "train.dim=8"]
    endless = ["--epochs", "100000", "--set", "train.patience=100000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([*arguments, *endless], stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not list((run / "train.tmp").glob("*/*/checkpoint*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert said.strip().splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in said
    assert not (run / "train").exists()
    again = [*arguments, "--epochs", "1", "--quiet", "--json", "--set", "train.patience=1"]
    again += ["--set", "evaluate.k=[1,5]"]
    out = subprocess.run(again, capture_output=True, text=True, env=environment, check=True).stdout
    assert json.loads(out)["rows"]


def assert_one_line(capsys: Output, words: str) -> None:
    """One line on standard error, nothing on standard output."""
    printed = capsys.readouterr()
    assert not printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert printed.err.splitlines()[-1] == lines[0]
    assert words in lines[0]
    assert "Traceback" not in printed.err


def test_settings_of_a_run_that_there_is_not(tmp_path: Path, capsys: Output) -> None:
    assert _guarded(["config", str(tmp_path / "nope")]) == 2
    assert "nope: no such run" in capsys.readouterr().err


def _child(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "llm4sbr", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, **options)


def test_letters_that_the_terminal_lacks_are_no_error() -> None:
    arguments = ["config", "--set", "data.options.item=坂本"]
    out, err = _child(*arguments, stdout=subprocess.PIPE).communicate()
    assert b'item = "??"' in out
    assert err == b""
    out, _ = _child(*arguments, "--json", stdout=subprocess.PIPE).communicate()
    assert json.loads(out)["data"]["options"] == {"item": "坂本"}


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    child = _child("plugins", "list", stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    assert child.communicate()[1] == b""
    assert child.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        child = _child("plugins", "list", stdout=full)
        assert child.communicate()[1] == b"error: output: cannot write: No space left on device\n"
    assert child.returncode == 2
