"""The study of a search: Optuna's record of all trials, in one journal file that is only ever appended to."""

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
"""Trials at random before the sampler (TPE) and the pruner (median) rely on those that are done."""
UNPRUNED = 2
"""Epochs that no trial is denied."""
DIGITS = 4
"""Significant digits of a real number that is tried."""
FOLDER = "folder"
"""Attribute of a trial that goes on: where the one that was interrupted has its checkpoint."""
SAME_AS = "same_as"
"""Attribute of a trial whose values were tried before: the number of that one."""
ERROR = "error"
"""Attribute of a trial that failed: why. One without it was interrupted and does not count."""


def mend(folder: Path) -> None:
    """Remove what a killed process left in the journal: half a line, and the lock on the file.

    Optuna reads a journal with half a line, but no longer after another line was appended to it.
    """
    path = folder / JOURNAL
    path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    if path.exists():
        with store.explained(path), path.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def open_study(folder: Path, name: str, *, seed: int = 0) -> optuna.Study:
    """The study of this name in the folder's journal, begun if there is none."""
    path = str(folder / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=RANDOM // 2, n_warmup_steps=UNPRUNED)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
    )
    # A sampler does not remember what it drew: a resumed one with the same seed would draw the same again.
    fresh = int(store.fingerprint([seed, len(study.trials)])[:8], 16)
    study.sampler = optuna.samplers.TPESampler(seed=fresh, n_startup_trials=RANDOM)
    return study


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's words."""
    return {key: _distribution(dimension) for key, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def values(trial: FrozenTrial | optuna.Trial) -> dict[str, Any]:
    """What a trial tries, by dotted key."""
    return {key: float(f"{v:.{DIGITS}g}") if isinstance(v, float) else v for key, v in trial.params.items()}


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that have ended by themselves: finished, pruned or failed; in the order of their beginning."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (trial.state is TrialState.FAIL and ERROR in trial.user_attrs)
    ]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were trained to their end."""
    return _in_state(study, TrialState.COMPLETE)


def running(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that are being trained, or were when their process died."""
    return _in_state(study, TrialState.RUNNING)


def waiting(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that are asked for and not begun."""
    return _in_state(study, TrialState.WAITING)


def _in_state(study: optuna.Study, state: TrialState) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state is state]


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Try an interrupted trial again: with the same values, going on from its checkpoint."""
    study.tell(trial.number, state=TrialState.FAIL)
    study.enqueue_trial(trial.params, user_attrs={FOLDER: place(trial)})


def place(trial: FrozenTrial | optuna.Trial) -> str:
    """Name of the folder in which a trial is trained."""
    return str(trial.user_attrs.get(FOLDER, f"trial-{trial.number:04}"))
