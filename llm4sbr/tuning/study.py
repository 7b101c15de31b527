"""The study of a search: Optuna's record of all trials, in a journal file that is only appended to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from llm4sbr import store
from llm4sbr.config.space import Choice, Dimension, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

JOURNAL = "study.journal"
RANDOM = 8
"""Number of trials with random values before the sampler (TPE) uses earlier results; the pruner (median)
starts after half as many."""
UNPRUNED = 2
"""Number of first epochs in which no trial is pruned."""
DIGITS = 4
"""Significant digits of real values."""
FOLDER = "folder"
"""Attribute of a trial that continues an interrupted one: the folder with the checkpoint."""
SAME_AS = "same_as"
"""Attribute of a trial whose values were tried before: the number of the earlier trial."""
ERROR = "error"
"""Attribute of a failed trial: the error message. A failed trial without it was interrupted."""


def mend(folder: Path) -> None:
    """Repair the journal after a process was killed: remove an incomplete last line and the lock file.

    Optuna can read a journal that ends with an incomplete line, but not once a line was appended to it.
    """
    path = folder / JOURNAL
    path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    if path.exists():
        store.regular(path)
        with store.explained(path), path.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def open_study(folder: Path, name: str, *, seed: int = 0) -> optuna.Study:
    """Open the study of this name in the folder's journal, or create it."""
    path = str(folder / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=RANDOM // 2, n_warmup_steps=UNPRUNED)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
    )
    # The state of a sampler is not saved; with the same seed, a resumed search would draw the same values.
    fresh = int(store.fingerprint([seed, len(study.trials)])[:8], 16)
    study.sampler = optuna.samplers.TPESampler(seed=fresh, n_startup_trials=RANDOM)
    return study


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as distributions of Optuna."""
    return {key: _distribution(dimension) for key, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def values(trial: FrozenTrial | optuna.Trial) -> dict[str, Any]:
    """The settings of a trial, by dotted key, real values rounded to `DIGITS`."""
    return {key: float(f"{v:.{DIGITS}g}") if isinstance(v, float) else v for key, v in trial.params.items()}


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that finished, were pruned or failed, but not interrupted ones; in the order of their start."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (trial.state is TrialState.FAIL and ERROR in trial.user_attrs)
    ]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Trials whose training finished."""
    return _in_state(study, TrialState.COMPLETE)


def running(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that are being trained, or whose process died during training."""
    return _in_state(study, TrialState.RUNNING)


def waiting(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that are enqueued and have not started."""
    return _in_state(study, TrialState.WAITING)


def _in_state(study: optuna.Study, state: TrialState) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state is state]


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue an interrupted trial again, with the same values; it continues from its checkpoint."""
    study.tell(trial.number, state=TrialState.FAIL)
    study.enqueue_trial(trial.params, user_attrs={FOLDER: place(trial)})


def place(trial: FrozenTrial | optuna.Trial) -> str:
    """Name of the folder in which a trial is trained."""
    return str(trial.user_attrs.get(FOLDER, f"trial-{trial.number:04}"))
