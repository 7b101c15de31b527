"""`tune`: searches for better settings of a run's model on its validation samples, and records the result."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from llm4sbr import folders, pipeline, store
from llm4sbr.config import Config, flatten, nest, to_settings
from llm4sbr.config.space import Dimension, Space, words
from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.errors import ConfigError, InputError, TrainingError
from llm4sbr.freshness import ITEM_ITEM, LLM, WHICH_MODELS
from llm4sbr.intents import verify_all
from llm4sbr.progress import Progress
from llm4sbr.report.formats import duration
from llm4sbr.report.tuning import FOLDER, FORMAT, RECORD
from llm4sbr.stages.train import MOST_WORKERS, variants
from llm4sbr.system import processes, signals
from llm4sbr.training import SELECT_BY
from llm4sbr.training.team import current
from llm4sbr.tuning import study as studies
from llm4sbr.tuning.elsewhere import LOCAL, on_engine
from llm4sbr.tuning.space import in_force, search_space
from llm4sbr.tuning.work import EPOCH_SECONDS, Search, search, trial_stamp

SECONDS = "seconds"
"""Attribute of a study: the total time of the search so far."""
SAVE_EVERY = 5.0
"""Seconds between two updates of this attribute."""
ENOUGH = 4
"""Minimum number of complete trials for which the importance of settings is computed."""


def tune(
    run: Path,
    *,
    trials: int = 40,
    seconds: float | None = None,
    workers: int | None = None,
    changes: Mapping[str, Dimension | None] = {},
    variant: str | None = None,
    keep: bool = False,
    engine: str = LOCAL,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search for better settings of one model of a run.

    Trials of earlier commands with the same search space and data are continued.

    Args:
        run: the run directory; the stages before `train` are brought up to date first.
        trials: total number of trials, including those of earlier commands.
        seconds: total time of the search, including that of earlier commands; None for no limit.
        workers: number of models trained in parallel; by default as for `train`.
        changes: changes of the search space that the components declare, see `search_space`.
        variant: the variant to tune; by default `llm`, else `item-item`, else `plain`.
        keep: write the best settings into the run's configuration if they are better than its own.
        engine: where models are trained: an installed name of kind `engines`, whose workers share the run's
            folder.
        progress: shows the progress.

    Returns:
        The content of `tune/tune.json`.

    Raises:
        ConfigError: the search space is invalid, or the time is too short for one trial.
        InputError: there are no validation samples, or no such variant.
        Llm4sbrError: as `pipeline.execute` and the stage `train`.
    """
    progress = progress or Progress()
    if current().size > 1:
        raise ConfigError("tune trains a model per process: start it without torchrun, with --workers")
    config = pipeline.execute(run, {}, until="localize", progress=progress, new=False)
    wanted = _search(run, config, variant, changes, trials)
    with folders.locked(run, what="run"):
        content = _searched(wanted, config, seconds, (engine, workers), progress)
    if keep:
        content["kept"] = _keep(run, content)
        store.write_record(wanted.folder / RECORD, content)
        progress.note(_about_keeping(run, content))
    return content


def _search(
    run: Path, config: Config, variant: str | None, changes: Mapping[str, Dimension | None], trials: int
) -> Search:
    """Describe the search; raises an error if the run cannot be tuned."""
    prepared = load(run / "prepare")
    if not len(prepared.samples["valid"].key):
        why = (
            "the paper's split has none"
            if prepared.stats["rules"]["split"] == "paper"
            else "raise data.valid"
        )
        raise InputError(f"{run}: no validation samples to compare settings on ({why}); nothing was tried")
    if not len(prepared.samples["train"].key):
        raise TrainingError(f"{run / 'prepare'}: no training samples; use more sessions or smaller data.test")
    there = variants(run, config)
    variant = variant or next((name for name in (LLM, ITEM_ITEM) if name in there), there[0])
    if variant not in there:
        raise InputError(f"no variant {variant!r} in {run}; there are {', '.join(there)}")
    space = search_space(config, variant, changes)
    verify_all(run / "localize", catalogue=catalogue_hash(prepared.catalogue))
    seed, settings = config.train.seed, to_settings(config)
    name = _name(run, variant, seed, config, space)
    samples = len(prepared.samples["train"].key)
    return Search(run, run / FOLDER, settings, variant, seed, space, name, trials, samples)


def _name(run: Path, variant: str, seed: int, config: Config, space: Space) -> str:
    """The study's name, a hash of all that decides its results: other data or another space, a new study."""
    decisive = {
        key: value
        for key, value in trial_stamp(run, variant, seed, config).parts.items()
        if key not in space and not key.startswith(WHICH_MODELS) and value != {}
    }
    return store.fingerprint([variant, seed, decisive, {key: words(one) for key, one in space.items()}])[:16]


def _searched(
    wanted: Search, config: Config, seconds: float | None, where: tuple[str, int | None], progress: Progress
) -> dict[str, Any]:
    with store.explained(wanted.folder):
        wanted.folder.mkdir(exist_ok=True)
    studies.mend(wanted.folder)
    study = studies.open_study(wanted.folder, wanted.study)
    _begin(study, in_force(config, wanted.space))
    _clear(wanted.folder, study)
    before = float(study.user_attrs.get(SECONDS, 0.0))
    left = None if seconds is None else seconds - before
    until = None if left is None else time.time() + left
    try:
        if left is None or left > 0:
            wanted = wanted._replace(until=until, seconds=seconds)
            engine, workers = where
            _work(wanted, study, before, (engine, workers or config.train.workers), progress)
    finally:
        content = _content(study, wanted, config)
        store.write_record(wanted.folder / RECORD, content)
    if not studies.complete(study):
        raise _without_result(study, config, seconds)
    if len(studies.counted(study)) < wanted.trials:
        progress.note(f"tune: the time is used up ({duration(content['seconds'])}); a larger --time goes on")
    _write_report(wanted.run)
    return content


def _begin(study: optuna.Study, own: Mapping[str, Any]) -> None:
    """Enqueue the trials to make first: interrupted ones, and in a new study the run's own values."""
    for trial in studies.running(study):
        studies.retry(study, trial)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial({key: value for key, value in own.items() if value is not None})


def _clear(folder: Path, study: optuna.Study) -> None:
    """Delete the checkpoints of trials that will not be continued."""
    used = {studies.place(trial) for trial in studies.waiting(study)}
    for path in folder.glob("trial-*"):
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def _work(
    wanted: Search, study: optuna.Study, before: float, where: tuple[str, int | None], progress: Progress
) -> None:
    started = saved = time.monotonic()
    done = len(studies.counted(study))
    left = max(wanted.trials - done, 0)
    engine, workers = where
    number = min(workers or min(os.cpu_count() or 1, MOST_WORKERS), left)
    if done:
        progress.note(f"tune: {done} trials are done already")
    signals.interruptible()

    def save() -> None:
        study.set_user_attr(SECONDS, round(before + time.monotonic() - started, 2))

    with progress.task("tune", left, unit="trials") as advance:

        def going(index: int, n: int, note: str) -> None:
            nonlocal saved
            if n:
                progress.note(note)
            advance(n, "" if n else note)
            if time.monotonic() - saved > SAVE_EVERY:
                saved = time.monotonic()
                save()

        try:
            jobs = [wanted._replace(worker=worker) for worker in range(number)]
            if engine == LOCAL:
                processes.run(search, jobs, workers=number, progress=going, done=lambda *_: None)
            elif jobs:
                on_engine(engine, jobs, study, going)
        finally:
            save()


def _without_result(
    study: optuna.Study, config: Config, seconds: float | None
) -> ConfigError | TrainingError:
    epoch = study.user_attrs.get(EPOCH_SECONDS)
    if seconds is None:
        return TrainingError("tune: no trial was trained to its end; see tune/tune.json for their errors")
    train, said = config.train, ""
    if epoch is not None:
        short, long = (
            duration(epoch * number) for number in (min(train.epochs, train.patience + 1), train.epochs)
        )
        said = f": an epoch takes {duration(epoch)}, so a trial {short} to {long}"
    return ConfigError(
        f"--time of {duration(seconds)} is too short for one trial{said}; give more, what was begun is kept"
    )


def _content(study: optuna.Study, wanted: Search, config: Config) -> dict[str, Any]:
    own = in_force(config, wanted.space)
    rows = [_row(trial) for trial in studies.counted(study)]
    done = [row for row in rows if row["state"] == "complete"]
    best = max(done, key=lambda row: row["value"], default=None)
    return {
        "format": FORMAT,
        "variant": wanted.variant,
        "llm": config.infer.llm,
        "backbone": config.train.backbone,
        "fuser": config.train.fuser,
        "seed": wanted.seed,
        "metric": SELECT_BY,
        "space": {key: words(one) for key, one in wanted.space.items()},
        "own": next((row for row in done if row["settings"] == _rounded(own)), None),
        "best": best,
        "importance": _importance(study),
        "trials": rows,
        "seconds": float(study.user_attrs.get(SECONDS, 0.0)),
        "kept": False,
    }


def _rounded(own: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.{studies.DIGITS}g}") if isinstance(v, float) else v for k, v in own.items()}


def _row(trial: FrozenTrial) -> dict[str, Any]:
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return {
        "number": trial.number,
        "state": states[trial.state],
        "value": trial.value,
        "settings": studies.values(trial),
        "epochs": len(trial.intermediate_values),
        "seconds": trial.user_attrs.get("training_seconds"),
        "same_as": trial.user_attrs.get(studies.SAME_AS),
        "error": trial.user_attrs.get(studies.ERROR),
    }


def _importance(study: optuna.Study) -> dict[str, float]:
    """The importance of each setting by PED-ANOVA, as shares of 1; {} if it cannot be computed."""
    done = studies.complete(study)
    if len(done) < ENOUGH or len({trial.value for trial in done}) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study)
    return {key: round(float(share), 4) for key, share in found.items()}


def _keep(run: Path, content: Mapping[str, Any]) -> bool:
    """Write the best settings into the run's configuration, unless its own are as good."""
    best, own = content["best"], content["own"]
    if own is not None and best["value"] <= own["value"]:
        return False
    now = flatten(to_settings(pipeline.choose(run, {})))
    changed = {key: value for key, value in best["settings"].items() if now.get(key) != value}
    pipeline.choose(run, nest(changed))
    return True


def _about_keeping(run: Path, content: Mapping[str, Any]) -> str:
    if not content["kept"]:
        return "tune: no trial is better than the run's own settings, which are left as they are"
    return f"tune: the best settings are in {run / 'config.toml'} now; llm4sbr run {run} trains with them"


def _write_report(run: Path) -> None:
    from llm4sbr.report.page.write import write_tuning  # imported here because it loads matplotlib

    write_tuning(run)
