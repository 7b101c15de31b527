"""Searching settings: on validation only, resumable, with a space that the components declare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")
from optuna.trial import TrialState

from llm4sbr import api, pipeline, store
from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.cli import _guarded
from llm4sbr.config import TrainConfig, build, merge, nest
from llm4sbr.config.in_force import configure
from llm4sbr.config.space import Choice, Span, declared, given, words
from llm4sbr.data import prepared as stored
from llm4sbr.errors import ConfigError, InputError, RegistryError, TrainingError
from llm4sbr.progress import Progress
from llm4sbr.stages import train as stage
from llm4sbr.system import installation
from llm4sbr.testing.backbones import BackboneContract
from llm4sbr.tuning import search as searching
from llm4sbr.tuning import study as studies
from llm4sbr.tuning import work
from llm4sbr.tuning.space import in_force, search_space

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


# What is searched


def test_a_space_is_declared_in_plain_values() -> None:
    tunes = {"a": [1, 2], "b": (0.0, 0.5), "c": (1, 8), "d": (1e-4, 1e-2, "log")}
    found = declared(tunes, prefix="train.options")
    assert found == {
        "train.options.a": Choice((1, 2)),
        "train.options.b": Span(0.0, 0.5),
        "train.options.c": Span(1, 8),
        "train.options.d": Span(1e-4, 1e-2, log=True),
    }
    assert [found[f"train.options.{name}"].whole for name in "bcd"] == [False, True, False]  # type: ignore[union-attr]
    texts = [f"{key}={words(one)}" for key, one in found.items()]
    read = given(texts)
    assert read["train.options.d"] == found["train.options.d"]
    assert read["train.options.a"] == found["train.options.a"]
    assert given(["train.fuser_options.x="]) == {"train.fuser_options.x": None}


@pytest.mark.parametrize("wrong", [[], [1, 1], (2, 1), (0.0, 1.0, "log"), (1,), "abc", [[1], [2]], (True, 2)])
def test_what_is_no_space_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"train\.x: .* is no space"):
        declared({"x": wrong}, prefix="train")


def test_train_and_the_components_declare_what_they_take() -> None:
    config = build({"train": {"fuser": "whitened"}})
    space = search_space(config, "llm", {})
    assert {f"train.{name}" for name in TrainConfig.tunes} < set(space)
    assert {"train.options.steps", "train.fuser_options.dropout"} < set(space)
    for key, value in in_force(config, space).items():
        assert space[key].has(value), key
    plain = search_space(config, "plain", {})
    assert not {"train.tau", "train.intent_dropout", "train.fuser_options.dropout"} & set(plain)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.foo=1,2", "train.foo: no such setting"),
        ("train.learnin_rate=0.1..0.2", "did you mean train.learning_rate"),
        ("train.options.foo=1,2", "has no option 'foo'; it takes: .*steps"),
        ("train.options.steps=a,b", "option steps = 'a'"),
        ("train.dim=0,8", "train.dim = 0: input should be greater"),
        ("train.dim=8..1.5", "is no space"),
        ("data.max_length=20,50", "only settings of train can be searched"),
        ("train.backbone=sr-gnn,narm", "compared by llm4sbr experiment, with --vary"),
        ("train.seed=1,2", "does not decide how a model is trained"),
        ("train.epochs=", "is not searched anyway; searched are"),
        ("train.dim", "expected KEY=A,B or KEY=LOW..HIGH"),
    ],
)
def test_a_wrong_space_is_one_line(text: str, said: str) -> None:
    with pytest.raises((ConfigError, RegistryError), match=said):
        search_space(build({}), "llm", given([text]))


class Undeclared(SRGNN):
    """Declares what its constructor does not take."""

    tunes = {"stepz": [1, 2]}


def test_the_contract_finds_a_name_that_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(BackboneContract):
        name = "sr-gnn"

    Mine().test_claims_make_sense()
    monkeypatch.setattr(SRGNN, "tunes", Undeclared.tunes)
    with pytest.raises(RegistryError, match="has no option 'stepz'"):
        Mine().test_claims_make_sense()


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
    before = (run / "config.toml").read_text()
    assert _guarded([*arguments, "--keep", "--json"]) == 0
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


# Single trials, without training


@pytest.fixture
def one(tmp_path: Path) -> work.Search:
    config = build({"train": {"epochs": 4}})
    space = {"train.learning_rate": Span(1e-4, 1e-2, log=True)}
    return work.Search(
        tmp_path, tmp_path, config.model_dump(mode="json", exclude_none=True), "plain", 0, space, "s", 9, 100
    )


def trained(metrics: list[float], seconds: float = 0.1) -> Any:
    """Stands for `_train`: writes a line per epoch and tells the watch."""

    def train(search: work.Search, values: dict[str, Any], folder: Path, watch: work.Watch) -> None:
        folder.mkdir(exist_ok=True)
        lines = [
            json.dumps({"epoch": epoch, "valid": {"MRR@20": value}, "seconds": seconds})
            for epoch, value in enumerate(metrics, 1)
        ]
        for epoch in range(1, len(lines) + 1):
            (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines[:epoch]))
            watch(search.samples, f"epoch {epoch}")

    return train


def make(one: work.Search, monkeypatch: pytest.MonkeyPatch, *metrics: Any, seconds: float = 0.1) -> Any:
    """Trials with these metrics per epoch; an error instead is raised."""
    for each in metrics:
        monkeypatch.setattr(
            work, "_train", trained(each, seconds) if isinstance(each, list) else raising(each)
        )
        study = studies.open_study(one.folder, one.study)
        trial = study.ask(studies.distributions(one.space))
        work._make(one, study, trial, lambda n, note: None)
    return studies.open_study(one.folder, one.study)


def raising(error: Exception) -> Any:
    def train(*_: Any) -> None:
        raise error

    return train


def test_a_bad_trial_is_pruned_and_its_folder_removed(
    one: work.Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = [0.1, 0.2, 0.3, 0.4], [0.01, 0.02, 0.03, 0.04]
    study = make(one, monkeypatch, good, good, good, good, bad, [0.2, 0.3, 0.4, 0.3])
    states = [trial.state for trial in study.trials]
    assert states == [*[TrialState.COMPLETE] * 4, TrialState.PRUNED, TrialState.COMPLETE]
    assert len(study.trials[4].intermediate_values) == 2
    assert study.trials[5].value == 0.4
    assert not list(one.folder.glob("trial-*"))


def test_a_trial_that_fails_is_counted_and_the_first_one_ends_it(
    one: work.Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(one, monkeypatch, [0.1], TrainingError("the loss is not a finite number"))
    assert [trial.state for trial in studies.counted(study)] == [TrialState.COMPLETE, TrialState.FAIL]
    assert study.trials[1].user_attrs["error"] == "the loss is not a finite number"
    fresh = one._replace(study="other")
    with pytest.raises(TrainingError, match="not a finite"):
        make(fresh, monkeypatch, TrainingError("the loss is not a finite number"))


def test_values_that_were_tried_are_not_trained_again(
    one: work.Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = one._replace(space={"train.dim": Choice((8,))})
    study = make(few, monkeypatch, [0.1, 0.3], AssertionError("trained again"))
    assert [trial.value for trial in study.trials] == [0.3, 0.3]
    assert study.trials[1].user_attrs["same_as"] == 0


def test_a_resumed_search_does_not_draw_the_same_again(
    one: work.Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(one, monkeypatch, *[[0.1]] * 6)  # opens the study anew before each
    assert len({trial.params["train.learning_rate"] for trial in study.trials}) == 6


def test_an_epoch_that_is_too_long_ends_the_search_at_once(
    one: work.Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = one._replace(seconds=60.0, until=time.time() + 60)
    with pytest.raises(work.OutOfTime):
        make(short, monkeypatch, [0.1, 0.2], seconds=50.0)
    study = studies.open_study(one.folder, one.study)
    assert study.trials[0].state is TrialState.RUNNING
    error = searching._without_result(study, build(dict(one.settings)), 60.0)
    assert "--time of 1 min 00 s is too short for one trial: an epoch takes 50.0 s" in str(error)
    studies.retry(study, study.trials[0])
    again = study.ask(studies.distributions(one.space))
    assert studies.place(again) == "trial-0000"
    assert again.params == study.trials[0].params


# Refused


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
