"""Searching settings: on validation only, and resumable."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from llm4sbr import api, pipeline, registry, store
from llm4sbr.cli import _guarded
from llm4sbr.config import TrainConfig, merge, nest
from llm4sbr.config.in_force import configure
from llm4sbr.data import prepared as stored
from llm4sbr.errors import InputError, RegistryError
from llm4sbr.progress import Progress
from llm4sbr.system import installation
from llm4sbr.training import job as stage
from llm4sbr.tuning import search as searching
from llm4sbr.tuning import work

sys.path.insert(0, str(Path(__file__).parent))
from toy_runs import settings

Output = pytest.CaptureFixture[str]
QUIET = Progress(quiet=True)
ONLY_RATE = [
    "train.learning_rate=0.00001,0.02",
    *(f"train.{name}=" for name in TrainConfig.tunes if name != "learning_rate"),
]
ONLY_RATE += ["train.options.steps="]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run up to `localize`, whose learning rate is far too low."""
    run = tmp_path / "run"
    chosen = nest({"train.epochs": 3, "train.learning_rate": 0.00001, "train.fuser": "gated"})
    pipeline.execute(run, merge(settings(tmp_path), chosen), until="localize", progress=QUIET)
    return run


# The search


class Sealed(dict[str, Any]):
    """Samples of which the test part must not be read."""

    def __getitem__(self, name: str) -> Any:
        assert name != "test", "the test part was read"
        return super().__getitem__(name)


def test_finds_the_planted_value_without_the_test_part_and_keeps_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def sealed(folder: Path) -> stored.Prepared:
        found = stored.load(folder)
        return found._replace(samples=Sealed(found.samples))

    stage._prepared.cache_clear()
    for module in (searching, stage):
        monkeypatch.setattr(module, "load", sealed)
    spaces = [word for text in ONLY_RATE for word in ("--space", text)]
    arguments = ["tune", str(run), "--trials", "6", "--workers", "1", "-q", *spaces]
    try:
        assert _guarded(arguments) == 0
    finally:
        stage._prepared.cache_clear()
    said = capsys.readouterr().out
    assert "MRR@20" in said
    assert "(own)" in said
    advised = said.rpartition("Next: llm4sbr ")[2].partition(", which saves")[0]
    before = (run / "config.toml").read_text()
    assert _guarded([*shlex.split(advised), "--json", "-q"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["trials"]) == 6  # none was made anew
    assert content["own"]["settings"] == {"train.learning_rate": 0.00001}
    assert content["best"]["settings"] == {"train.learning_rate": 0.02}
    assert content["best"]["value"] > content["own"]["value"]
    assert content["kept"]
    assert (run / "config.toml").read_text() != before
    assert configure(run).train.learning_rate == 0.02
    page = (run / "tune" / "report.html").read_text()
    assert "History" in page
    assert "<script" not in page
    assert sorted(path.name for path in (run / "tune").iterdir()) == [
        "report.html",
        "study.journal",
        "tune.json",
    ]
    found = pipeline.execute(run, {}, until="train", progress=QUIET)
    assert found.train.learning_rate == 0.02
    record = store.read_json(run / "train" / "llm" / "seed-0" / "model.json")
    assert record["facts"]["valid"]["MRR@20"] == pytest.approx(content["best"]["value"], abs=1e-6)


def epochs_of(run: Path) -> int:
    """Epochs of the trial in training, 0 if there is none."""
    logs = list((run / "tune").glob("trial-*/log.jsonl"))
    return len(logs[0].read_text().splitlines()) if logs else 0


def begun(run: Path, log: Path) -> subprocess.Popen[str]:
    """A search in a process of its own, returned when its trial is an epoch further."""
    before = epochs_of(run)
    spaces = [word for text in ONLY_RATE for word in ("--space", text)]
    command = [sys.executable, "-m", "llm4sbr", "tune", str(run), "--trials", "3", "--workers", "1", *spaces]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, stdout=stream, text=True, env={**os.environ})
    end = time.monotonic() + 200
    while epochs_of(run) <= before:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_an_interrupted_and_a_killed_search_go_on(run: Path, tmp_path: Path) -> None:
    pipeline.choose(run, nest({"train.epochs": 400, "train.patience": 400}))
    process = begun(run, tmp_path / "first")
    process.send_signal(signal.SIGINT)
    assert process.wait(100) == 130, (tmp_path / "first").read_text()
    assert "run the same command to go on" in (tmp_path / "first").read_text()
    process = begun(run, tmp_path / "second")
    process.kill()
    process.wait()
    (left,) = (run / "tune").glob("trial-*")
    done = epochs_of(run)
    with (run / "tune" / "study.journal").open("a") as journal:
        journal.write('{"op_code":')  # half a line
    (run / "tune" / "study.journal.lock").touch()
    kept = left.name
    assert done
    seen: list[tuple[str, int]] = []
    real = work.Watch.__call__

    def stopped(self: work.Watch, n: int, note: str) -> None:
        if note:
            real(self, n, note)
            seen.append((self.log.parent.name, len(self.epochs)))
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work.Watch, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            api.tune(run, trials=3, workers=1, space=ONLY_RATE)
    ((place, epochs),) = seen
    assert place == kept
    assert epochs > done  # it went on from the checkpoint, and told Optuna of all epochs


# Refused


class Elsewhere:
    """An engine whose workers are this process, which says what it was made with."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.closed = False

    def map(self, make: Any, blocks: Any) -> Any:
        return map(make(), blocks)

    def close(self) -> None:
        self.closed = True


def test_an_engine_makes_the_trials_of_local(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = run.with_name("other")
    shutil.copytree(run, other)
    here = api.tune(run, trials=3, workers=1, space=ONLY_RATE)
    made: list[Elsewhere] = []
    create = registry.create

    def planted(kind: str, name: str, **options: Any) -> Any:
        if (kind, name) != ("engines", "planted"):
            return create(kind, name, **options)
        made.append(Elsewhere(**options))
        return made[-1]

    monkeypatch.setattr(registry, "create", planted)
    there = api.tune(other, trials=2, workers=1, space=ONLY_RATE, engine="planted")
    there = api.tune(other, trials=3, workers=1, space=ONLY_RATE, engine="planted")  # goes on
    assert [(one.options, one.closed) for one in made] == [({"workers": 1}, True)] * 2
    drawn = [
        [{k: row[k] for k in ("settings", "value", "state")} for row in one["trials"]]
        for one in (here, there)
    ]
    assert drawn[0][:2] == drawn[1][:2]
    assert len(drawn[1]) == 3
    with pytest.raises(RegistryError, match="'nowhere'"):
        api.tune(other, trials=4, workers=1, space=ONLY_RATE, engine="nowhere")


def test_a_time_that_is_too_short_says_how_long_a_trial_takes(run: Path, capsys: Output) -> None:
    pipeline.choose(run, nest({"train.epochs": 100000, "train.patience": 90000}))
    assert _guarded(["tune", str(run), "--time", "2s", "--workers", "1", "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --time of 2.0 s is too short for one trial: an epoch takes ")
    assert list((run / "tune").glob("trial-*"))  # what was begun is kept
    assert _guarded(["tune", str(run), "--time", "soon"]) == 2
    assert "--time soon: expected a time such as 90s, 30m or 2h" in capsys.readouterr().err


def test_without_validation_samples_or_with_a_wrong_variant_nothing_is_tried(run: Path) -> None:
    with pytest.raises(InputError, match=r"no variant 'llms' in .*; there are plain, .*llm, none"):
        api.tune(run, variant="llms")
    pipeline.choose(run, nest({"protocol": "paper"}))
    with pytest.raises(InputError, match=r"no validation samples .*the paper's split has none"):
        api.tune(run)
    assert not (run / "tune").exists()


def test_without_optuna_the_command_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    real = installation.installed_version
    monkeypatch.setattr(
        installation, "installed_version", lambda name: None if name == "optuna" else real(name)
    )
    assert _guarded(["tune", str(tmp_path / "run")]) == 2
    assert f"optuna is not installed: {installation.command('tune')}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
