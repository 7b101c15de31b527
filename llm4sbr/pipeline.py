"""Runs the stages in order, skipping those that are fresh (see `freshness`)."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from llm4sbr import available, folders, registry, stamps, store
from llm4sbr.config import Config, Settings, components, merge, read_toml, to_settings, to_toml
from llm4sbr.config.in_force import CHOSEN, RESOLVED, check_run, naming_kept, request
from llm4sbr.config.layers import write_settings
from llm4sbr.config.types import check_lengths
from llm4sbr.errors import ConfigError, Llm4sbrError, RegistryError, StoreError
from llm4sbr.freshness import STAGES, Stage, adopt_models, asked, stamp_now, why
from llm4sbr.progress import Progress
from llm4sbr.report import REPORT
from llm4sbr.stamps import STAGE_NAMES
from llm4sbr.system import installation, memory, processes, signals


def execute(
    run: Path,
    chosen: Settings,
    *,
    until: str = "evaluate",
    progress: Progress | None = None,
    force: bool = False,
    new: bool = True,
    start: str | Path | None = None,
) -> Config:
    """Bring a run up to date up to and including the stage `until`, redoing only what is not fresh.

    Args:
        run: the run directory.
        chosen: settings that somebody chose; see `request`. They are kept when a stage that reads them has
            accepted them.
        until: name of the last stage to run.
        progress: shows the progress.
        force: redo the stage `until` even if it is fresh.
        new: whether to create the run if it does not exist.
        start: an older run whose models this run's start from; a new run takes its settings, too. `none`:
            they start anew. By default as the run did before.

    Raises:
        ConfigError: a setting is wrong.
        InputError: the older run is of other components or of another data set.
        StoreError: the directory is in use by another process, not a run, or cannot be written.
    """
    installation.require("train")
    processes.check_not_imported()
    progress = progress or Progress()
    if until not in STAGE_NAMES:
        raise ConfigError(f"no stage {until!r}; there are {', '.join(STAGE_NAMES)}")
    run = run.expanduser()
    old = None if start in (None, ANEW) else Path(start).expanduser()
    if old is not None and not (run / CHOSEN).exists():
        check_run(old)
        chosen, new = merge(read_toml(old / CHOSEN), chosen), True
    if not new:
        check_run(run)
    there = run.exists()
    asked_for = request(run, chosen)
    if encoder := available.encoder_instead(run, asked_for.chosen(), asked_for.config, until, progress):
        asked_for = request(run, merge(chosen, encoder))
    config, reached = asked_for.config, STAGES[: STAGE_NAMES.index(until) + 1]
    with naming_kept(run, asked_for.before, chosen):
        components.check(chosen, config)
        used = _versions(config)
        if until == STAGE_NAMES[-1]:
            available.check_baselines(config)
        with _locked(run):
            for stage in reached:
                redo, accepted = force and stage.name == until, partial(asked_for.keep, stage.name)
                ready = partial(available.check, config, until) if stage.name == "infer" else None
                _bring_up_to_date(run, stage, config, progress, redo=redo, accepted=accepted, ready=ready)
                if stage.name == "prepare":
                    _check_lengths(run, config, chosen, until)
                    _begin_from(run, start, old, config, progress, remove=not there)
            asked_for.keep()
            write_settings(run / RESOLVED, to_toml(to_settings(config)))
            store.write_record(run / "versions.json", used)
            if until == STAGE_NAMES[-1] and not (run / REPORT).exists():
                _write_report(run)
    return config


def _begin_from(
    run: Path, start: str | Path | None, old: Path | None, config: Config, progress: Progress, *, remove: bool
) -> None:
    """Take what the models start from; if that is refused, a run that was begun for it is removed."""
    from llm4sbr.training import start as starts

    if old is None:
        if start == ANEW:
            starts.drop(run)
        return
    try:
        found = starts.take(run, old, config)
    except Llm4sbrError:
        for path in run.iterdir() if remove else ():
            if path.name != folders.LOCK:  # which goes when it is no longer held
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
    progress.note(f"start: {len(found.record['models'])} models of {old}")


def tried(run: Path, chosen: Settings) -> Config:
    """All settings in use if these were chosen; nothing is kept. Raises `ConfigError` or `RegistryError`."""
    asked_for = request(run, chosen)
    with naming_kept(run, asked_for.before, chosen):
        components.check(chosen, asked_for.config)
    return asked_for.config


def choose(run: Path, chosen: Settings) -> Config:
    """Save or reset settings of a run without running anything; returns all settings in use.

    Raises:
        ConfigError: a setting is wrong.
        StoreError: there is no such run, or another process works on it.
    """
    asked_for = request(run, chosen)
    if chosen:
        components.check(chosen, asked_for.config)
        _versions(asked_for.config)
        with _locked(run):
            _check_lengths(run, asked_for.config, chosen, "prepare")
            asked_for.keep()
    return asked_for.config


def _check_lengths(run: Path, config: Config, chosen: Settings, until: str) -> None:
    """Refuse lists that are longer than the catalogue before anything is asked or trained."""
    stats = run / "prepare" / "stats.json"
    if stats.exists() and (until == STAGE_NAMES[-1] or "k" in chosen.get("evaluate", {})):
        check_lengths(config.evaluate.k, int(store.read_json(stats)["catalogue"]))


ANEW = "none"
"""As an older run to start from: no one."""


def timings(run: Path) -> dict[str, dict[str, float]]:
    """`seconds` and `peak_memory` (bytes) of every finished stage, in order."""
    found = [stamps.read_stamp(run / stage.name) for stage in STAGES]
    return {s.stage: {"seconds": s.seconds, "peak_memory": s.peak_memory} for s in found if s}


def _bring_up_to_date(
    run: Path,
    stage: Stage,
    config: Config,
    progress: Progress,
    *,
    redo: bool,
    accepted: Callable[[], None],
    ready: Callable[[], None] | None,
) -> None:
    folder, parts = run / stage.name, asked(stage.name, config)
    old, stamp = stamps.read_stamp(folder), stamp_now(run, stage, config)
    same = old is not None and old.fingerprint == stamp.fingerprint
    lost = stamps.damage(folder, parts) if same and old and old.files is not None else None
    if same and not lost and not redo:
        progress.note(f"{stage.name}: fresh")
        return
    progress.note(f"{stage.name}: {why(old, stamp, lost)}")
    if ready:
        ready()
    with ExitStack() as opened:

        def begin() -> None:
            if not begun:
                begun.append(stage.name)
                accepted()
                opened.enter_context(stamps.stage_folder(folder, stamp))
                if before:
                    stamps.keep_parts(before, out)

        begun: list[str] = []
        before, out = None if redo else folder, stamps.unfinished(folder)
        started = time.monotonic()
        memory.reset_peak()
        largest = memory.peak_of_children()
        signals.interruptible()
        if stage.name == "train":
            adopt_models(run)
        with stamps.naming_command(run):
            stage.function(run, out, config, progress, stamps.Attempt(out, stamp, before, begin))
        stamps.keep_parts(folder, out)
        child = memory.peak_of_children()
        files, content = stamps.files_of(out, parts)
        done = stamp._replace(
            seconds=round(time.monotonic() - started, 2),
            peak_memory=max(memory.peak(), child if child > largest else 0),
            content=content,
            files=files,
        )
        stamps.write_stamp(out, done)
        (run / REPORT).unlink(missing_ok=True)  # it describes the old results


def _write_report(run: Path) -> None:
    from llm4sbr.report.page.write import write_run

    write_run(run)


def _versions(config: Config) -> dict[str, str]:
    """Versions of Python, this package and all components that the settings name."""
    used = {pair for stage in STAGES for pair in stage.components(config)}
    python = {"python": platform.python_version(), "llm4sbr": registry.core_version()}
    versions = python | registry.versions(sorted(used))
    with suppress(RegistryError):  # an uninstalled component: its results are still there
        versions |= registry.versions([("engines", config.engine.name)])
    return versions


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    if run.exists() and not run.is_dir():
        raise StoreError(f"{run}: not a folder; name a run directory, such as runs/demo")
    names = {path.name for path in run.iterdir()} if run.is_dir() else set()
    if names - {folders.LOCK} and "config.toml" not in names:
        raise StoreError(f"{run}: holds other files and no run; name a new or empty folder")
    there = run.exists()
    try:
        with folders.locked(run, what="run"):
            yield
    finally:
        if not there and {path.name for path in run.iterdir()} <= {folders.LOCK}:  # the settings were refused
            shutil.rmtree(run, ignore_errors=True)
