"""Runs the stages in order: a run is brought up to date by redoing what is not fresh, see `freshness`."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llm4sbr import registry, stamps, store
from llm4sbr.config import Config, Settings, components, to_settings, to_toml
from llm4sbr.config.in_force import RESOLVED, configure
from llm4sbr.errors import ConfigError, RegistryError, StoreError
from llm4sbr.freshness import STAGES, Stage, stamp_now, why
from llm4sbr.progress import Progress
from llm4sbr.report import REPORT
from llm4sbr.stamps import STAGE_NAMES
from llm4sbr.system import installation, memory, signals


def execute(
    run: Path,
    chosen: Settings,
    *,
    until: str = "evaluate",
    progress: Progress | None = None,
    force: bool = False,
) -> Config:
    """Bring a run up to date up to and including the stage `until`, redoing only what is not fresh.

    Args:
        run: the run directory, made if missing.
        chosen: settings that somebody chose; see `configure`.
        until: name of the last stage to run.
        progress: where to say how far it is.
        force: redo the stage `until` even if it is fresh.

    Raises:
        ConfigError: a setting is wrong.
        StoreError: the directory is in use by another process, not a run, or cannot be written.
    """
    installation.require("train")
    progress = progress or Progress()
    if until not in STAGE_NAMES:
        raise ConfigError(f"no stage {until!r}; there are {', '.join(STAGE_NAMES)}")
    run, given = run.expanduser(), chosen
    chosen, config = configure(run, given)
    components.check(given, config)
    with _locked(run):
        _record(run, chosen, config)
        for stage in STAGES[: STAGE_NAMES.index(until) + 1]:
            _bring_up_to_date(run, stage, config, progress, redo=force and stage.name == until)
        if until == STAGE_NAMES[-1] and not (run / REPORT).exists():
            _write_report(run)
    return config


def timings(run: Path) -> dict[str, dict[str, float]]:
    """`seconds` and `peak_memory` (bytes) of every finished stage, in order."""
    found = [stamps.read_stamp(run / stage.name) for stage in STAGES]
    return {s.stage: {"seconds": s.seconds, "peak_memory": s.peak_memory} for s in found if s}


def _bring_up_to_date(run: Path, stage: Stage, config: Config, progress: Progress, *, redo: bool) -> None:
    folder = run / stage.name
    old = stamps.read_stamp(folder)
    stamp = stamp_now(run, stage, config)
    if old and old.fingerprint == stamp.fingerprint and not redo:
        progress.note(f"{stage.name}: fresh")
        return
    progress.note(f"{stage.name}: {why(old, stamp)}")
    (run / REPORT).unlink(missing_ok=True)  # it tells of what was before
    with stamps.stage_folder(folder, stamp) as out:
        started = time.monotonic()
        memory.reset_peak()
        before = memory.peak_of_children()
        work = stage.function
        signals.interruptible()
        with _way_out(run):
            work(run, out, config, progress)
        child = memory.peak_of_children()
        done = stamp._replace(
            seconds=round(time.monotonic() - started, 2),
            peak_memory=max(memory.peak(), child if child > before else 0),
            content=store.folder_sha256(out),
        )
        stamps.write_stamp(out, done)


@contextmanager
def _way_out(run: Path) -> Iterator[None]:
    """Adds to an error about a finished stage's file how it is made anew: by itself the stage is fresh."""
    try:
        yield
    except StoreError as error:
        told = str(error)
        damaged = next((name for name in STAGE_NAMES if told.startswith(f"{run / name}/")), None)
        if damaged is None or "--force" in told:
            raise
        told = told.removesuffix(f"; run {damaged} again")
        raise StoreError(f"{told}; llm4sbr {damaged} {run} --force makes it anew") from None


def _write_report(run: Path) -> None:
    from llm4sbr.report.page.write import write_run

    write_run(run)


def _record(run: Path, chosen: Settings, config: Config) -> None:
    used = {pair for stage in STAGES for pair in stage.components(config)}
    python = {"python": platform.python_version(), "llm4sbr": registry.core_version()}
    store.write_text(run / "config.toml", to_toml(chosen))
    store.write_text(run / RESOLVED, to_toml(to_settings(config)))
    versions = python | registry.versions(sorted(used))
    with suppress(RegistryError):  # where it has gone, what it has done is still there
        versions |= registry.versions([("engines", config.engine.name)])
    store.write_json(run / "versions.json", versions)


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    if run.exists() and not run.is_dir():
        raise StoreError(f"{run}: not a folder; name a run directory, such as runs/demo")
    names = {path.name for path in run.iterdir()} if run.is_dir() else set()
    if names - {store.LOCK} and "config.toml" not in names:
        raise StoreError(f"{run}: holds other files and no run; name a new or empty folder")
    with store.locked(run, what="run"):
        yield
