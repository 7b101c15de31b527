"""The stages in order: what each depends on, which are fresh, and why one is redone.

A stage is fresh if its folder's stamp names the same settings, component versions and upstream contents
as the stage would have now. Settings that cannot change a result (`NEUTRAL`) are not part of a stamp.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from llm4sbr import registry, stamps, store
from llm4sbr.config import (
    PROTOCOLS,
    Config,
    Settings,
    build,
    components,
    flatten,
    nest,
    read_toml,
    to_settings,
    to_toml,
)
from llm4sbr.config.files import CONTENT, MODELS, data_files, model_content, with_full_paths
from llm4sbr.config.types import without_defaults
from llm4sbr.errors import ConfigError, RegistryError, StoreError
from llm4sbr.progress import Progress
from llm4sbr.report import REPORT
from llm4sbr.system import installation, memory, signals

RESOLVED = "resolved.toml"
"""Every value in force, as a file of the run."""

NEUTRAL = frozenset({"train.workers", "train.device", "train.compile", "infer.cache", "evaluate.batch_size"})
"""Settings that change how fast or where something is done, and what comes out in the last digits at most."""


class Stage(NamedTuple):
    """One stage: `llm4sbr.stages.<name>.<name>` writes the run's folder `<name>`."""

    name: str
    settings: tuple[str, ...]
    """Settings it reads, as dotted prefixes."""
    upstream: tuple[str, ...]
    """Stages whose folders it reads."""
    components: Callable[[Config], list[tuple[str, str]]]
    """Kind and name of the components it uses."""

    @property
    def function(self) -> Callable[[Path, Path, Config, Progress], None]:
        """The stage's function, imported now."""
        return getattr(import_module(f"llm4sbr.stages.{self.name}"), self.name)  # type: ignore[no-any-return]


def _infer_components(config: Config) -> list[tuple[str, str]]:
    asked = [("perspectives", name) for name in config.infer.perspectives]
    return [("llms", config.infer.llm), *asked, *(("llms", name) for name in config.infer.controls)]


def _train_components(config: Config) -> list[tuple[str, str]]:
    return [("backbones", config.train.backbone), ("fusers", config.train.fuser)]


STAGES = (
    Stage("prepare", ("data",), (), lambda c: [("readers", c.data.reader)]),
    Stage("infer", ("infer",), ("prepare",), _infer_components),
    Stage(
        "localize",
        ("localize",),
        ("prepare", "infer"),
        lambda c: [("encoders", c.localize.encoder), ("localizers", c.localize.localizer)],
    ),
    Stage("train", ("train", "infer.controls"), ("prepare", "localize"), _train_components),
    Stage(
        "evaluate",
        ("evaluate", "train.baselines", "protocol", *PROTOCOLS["paper"]),  # its table names the protocol
        ("prepare", "localize", "train"),
        lambda c: [("baselines", name) for name in c.train.baselines],
    ),
)
"""The pipeline, in order."""

STAGE_NAMES = tuple(stage.name for stage in STAGES)


def configure(run: Path | None, chosen: Settings) -> tuple[Settings, Config]:
    """What is chosen for a run, and every value in force.

    Args:
        run: the run directory; settings chosen there before hold where `chosen` is silent.
        chosen: settings of the command line, already merged.

    Returns:
        The settings somebody chose, and the configuration, in which the protocol, and behind it the chosen
        components' suggestions, fill what nobody chose. If a component has gone since, what was in force
        when the run was last brought up to date, unless something else is chosen now.
    """
    before, given = (run / "config.toml" if run else None), chosen
    if before and before.exists():
        chosen = components.added(read_toml(before), chosen)
    chosen = with_full_paths(without_defaults(chosen))
    try:
        return chosen, _in_force(chosen)
    except RegistryError:
        if given or run is None or not (run / RESOLVED).exists():
            raise
        return chosen, build(read_toml(run / RESOLVED))


def _in_force(chosen: Settings) -> Config:
    config = build(chosen)
    suggested = [
        nest(registry.suggestions("readers", config.data.reader)),
        nest(registry.suggestions("llms", config.infer.llm)),
        nest(PROTOCOLS[config.protocol]),
    ]
    return build(*suggested, chosen)


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


def default_run(chosen: Settings) -> Path:
    """`runs/DATASET-LLM`, or `runs/DATASET-LLM-PROTOCOL`: the run directory where none is named."""
    config = build(chosen)
    label = f"{config.data.reader}-{config.infer.llm}"
    label += "" if config.protocol == "default" else f"-{config.protocol}"
    return Path("runs") / "".join(c if c.isalnum() or c in "-._" else "-" for c in label)


def timings(run: Path) -> dict[str, dict[str, float]]:
    """`seconds` and `peak_memory` (bytes) of every finished stage, in order."""
    found = [stamps.read_stamp(run / stage.name) for stage in STAGES]
    return {s.stage: {"seconds": s.seconds, "peak_memory": s.peak_memory} for s in found if s}


def stamp_for(run: Path, stage: Stage, config: Config) -> stamps.Stamp:
    """The stamp that the stage would have if it ran now; its upstream stages must be finished."""
    flat = flatten(to_settings(config))
    parts = {
        key: value
        for key, value in flat.items()
        if key not in NEUTRAL and any(key == own or key.startswith(f"{own}.") for own in stage.settings)
    }
    parts |= {
        f"version of {name}": text for name, text in registry.versions(stage.components(config)).items()
    }
    for name in stage.upstream:
        upstream = stamps.read_stamp(run / name)
        if upstream is None:
            raise StoreError(f"{run}: stage {name} is not finished; run llm4sbr {name} {run}")
        parts[f"output of {name}"] = upstream.content
    if stage.name == "prepare" and (files := data_files(config)):
        parts["files of data.path"] = files
    if stage.name in MODELS:
        parts |= model_content(stage.name, config)
    wording = Path(config.infer.wording)
    if stage.name == "infer" and wording.is_file():
        parts["text of infer.wording"] = store.file_sha256(wording)
    return stamps.Stamp(stage.name, parts)


def _bring_up_to_date(run: Path, stage: Stage, config: Config, progress: Progress, *, redo: bool) -> None:
    folder = run / stage.name
    old = stamps.read_stamp(folder)
    stamp = _without_news(_with_gone_model(stamp_for(run, stage, config), old), old)
    if old and old.fingerprint == stamp.fingerprint and not redo:
        progress.note(f"{stage.name}: fresh")
        return
    progress.note(f"{stage.name}: {_why(old, stamp)}")
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


def _without_news(stamp: stamps.Stamp, old: stamps.Stamp | None) -> stamps.Stamp:
    """The stamp without settings that did not exist when the folder was made and are at their defaults.

    A setting that a new version brings keeps at its default to what was done before, so it makes no run
    stale.
    """
    if old is None:
        return stamp
    defaults = flatten(to_settings(Config()))
    news = {key for key, value in stamp.parts.items() if key not in old.parts and defaults.get(key) == value}
    if old.parts.items() <= stamp.parts.items():  # made by a version that did not look into models
        news |= {key for key in stamp.parts.keys() - old.parts.keys() if key.startswith(CONTENT)}
    return stamp._replace(parts={key: value for key, value in stamp.parts.items() if key not in news})


def _with_gone_model(stamp: stamps.Stamp, old: stamps.Stamp | None) -> stamps.Stamp:
    """The stamp with what is known of a model's folder that is no longer here: results outlive models."""
    before = old.parts if old else {}
    gone = {
        f"{CONTENT}{name}": before[f"{CONTENT}{name}"]
        for _, name in MODELS.values()
        if f"{CONTENT}{name}" in before.keys() - stamp.parts.keys() and before[name] == stamp.parts[name]
    }
    return stamp._replace(parts=stamp.parts | gone)


def _why(old: stamps.Stamp | None, new: stamps.Stamp) -> str:
    if old is None:
        return "to do"
    different = stamps.changes(old, new)
    if not different:
        return "redone as asked"
    shown = [text if len(text) <= 90 else text[: text.index(":")] + " changed" for text in different[:3]]
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return f"redone, {'; '.join(shown)}{more}"


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
