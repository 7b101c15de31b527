"""What is checkable early is said before an LLM is asked, and a default that cannot be had is replaced."""

from __future__ import annotations

import io
import multiprocessing
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from llm4sbr import available, pipeline
from llm4sbr.config import Config, build, nest
from llm4sbr.errors import ConfigError, ModelUnavailableError, TrainingError
from llm4sbr.progress import Progress
from llm4sbr.system import models
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    return {"data.reader": "csv", "data.path": str(toy_log(tmp_path / "log")), "infer.llm": "item-text"}


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(models, "probe", unreachable)


def execute(run: Path, settings: dict[str, object], until: str) -> str:
    """What is said while a run is brought up to date."""
    said = io.StringIO()
    progress = Progress(console=Console(file=said, width=1000))
    pipeline.execute(run, nest(settings), until=until, progress=progress)
    return said.getvalue()


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        (
            {"train.device": "xpu:7"},
            ConfigError,
            r"train\.device = 'xpu:7': no such device here .* cpu or auto",
        ),
        ({"localize.encoder": "transformers:nowhere/at-all"}, ModelUnavailableError, "nowhere/at-all"),
        ({"localize.encoder_options.device": "xpu:7"}, ConfigError, r"encoder_options\.device = 'xpu:7'"),
    ],
)
@pytest.mark.usefixtures("no_hub")
def test_what_training_and_localizing_need_is_looked_at_before_asking(
    tmp_path: Path, settings: dict[str, object], chosen: dict[str, object], error: type, message: str
) -> None:
    run = tmp_path / "run"
    execute(run, settings, "prepare")
    with pytest.raises(error, match=message):
        execute(
            run, settings | {"localize.encoder": f"transformers:{tiny_bert(tmp_path)}"} | chosen, "evaluate"
        )
    assert not (run / "infer").exists()


@pytest.mark.usefixtures("no_hub")
def test_an_encoder_that_is_here_replaces_a_default_that_is_not(tmp_path: Path) -> None:
    pytest.importorskip("llm4sbr_embedded", reason="no package offers another encoder")
    said = io.StringIO()
    progress = Progress(console=Console(file=said, width=1000))
    instead = partial(available.encoder_instead, tmp_path, until="localize", progress=progress)
    assert instead({}, Config()) == {"localize": {"encoder": "embedded"}}
    assert "the default, bert, is not on this machine" in said.getvalue()
    assert "embedded of llm4sbr-embedded is here and taken" in said.getvalue()
    named = {"localize": {"encoder": "bert"}}
    assert instead(named, build(named)) == {}  # somebody chose it
    assert instead({}, Config(), until="infer") == {}  # not needed
    instead = partial(instead, progress=Progress(quiet=True))
    assert instead({}, build({"localize": {"encoder": "transformers:x"}})) == {}  # suggested


def test_a_default_that_is_on_this_machine_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "file", lambda *_: tmp_path)
    assert available.encoder_instead(tmp_path, {}, Config(), "evaluate", Progress(quiet=True)) == {}


PROGRAM = """
from llm4sbr.progress import Progress
from llm4sbr.system import processes

def double(job, report):
    return 2 * job

processes.check_not_imported()
processes.run(double, [1, 2], workers=2, progress=print, done=print)
"""


def test_a_program_without_the_guard_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mine.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, check=False)
    guard = 'put what uses llm4sbr under: if __name__ == "__main__":'
    assert f"a worker process imports this program again, and reached llm4sbr: {guard}" in done.stderr
    assert f"a worker process ended while it imported this program: {guard}" in done.stderr
    assert "memory" not in done.stderr.splitlines()[-1]
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(TrainingError, match="__main__"):
        pipeline.execute(tmp_path / "run", {}, until="prepare")
    assert not (tmp_path / "run").exists()
