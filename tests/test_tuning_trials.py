"""Single trials of a search, without training: pruned, failed, repeated, resumed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")
from optuna.trial import TrialState

from llm4sbr.config import build
from llm4sbr.config.space import Choice, Span
from llm4sbr.errors import TrainingError
from llm4sbr.tuning import search as searching
from llm4sbr.tuning import study as studies
from llm4sbr.tuning import work


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
