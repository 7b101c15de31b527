"""The settings in use in a run: those the user chose, then the protocol's and the components' suggestions.

A run keeps the chosen settings in `config.toml`. They are written after the data and the components have
accepted them, stage by stage, so that a refused command changes nothing; `KEY=` and `KEY=default` reset one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr import registry, secrets, stamps
from llm4sbr.config import (
    PROTOCOLS,
    Config,
    Settings,
    build,
    components,
    flatten,
    nest,
    read_toml,
    to_toml,
)
from llm4sbr.config.files import with_full_paths
from llm4sbr.config.layers import DEFAULT, write_settings
from llm4sbr.config.types import without_defaults
from llm4sbr.errors import Llm4sbrError, RegistryError, StoreError
from llm4sbr.stamps import SECTIONS, STAGE_NAMES

CHOSEN = "config.toml"
"""File in the run with the settings that the user chose."""

RESOLVED = "resolved.toml"
"""File in the run with all settings in use when the run was last brought up to date."""


class ChosenSettings(NamedTuple):
    """The settings of a command, combined with those of its run."""

    run: Path | None
    before: Settings
    """Settings kept in the run."""
    given: Settings
    """Settings of the command."""
    config: Config
    """All settings in use."""

    def chosen(self, until: str = STAGE_NAMES[-1]) -> Settings:
        """Settings kept in the run, and those of the command for the stages up to `until`."""
        reached = STAGE_NAMES[: STAGE_NAMES.index(until) + 1]
        now = {key: value for key, value in self.given.items() if SECTIONS.get(key) in reached}
        return _together(self.before, now)

    def keep(self, until: str = STAGE_NAMES[-1]) -> None:
        """Save the chosen settings in the run, for the stages up to `until`."""
        assert self.run is not None
        write_settings(self.run / CHOSEN, to_toml(self.chosen(until)))


def request(run: Path | None, given: Settings) -> ChosenSettings:
    """Resolve and validate the settings of a command.

    Args:
        run: the run directory; what it keeps holds where `given` is silent.
        given: settings of the command, already merged.

    Returns:
        The request; in its configuration the protocol, and behind it the chosen components' suggestions, fill
        what nobody chose. If a component has gone since, it is what was in force when the run was last
        brought up to date, unless something else is chosen now.

    Raises:
        ConfigError: a wrong key or value.
        RegistryError: a component that is not installed.
    """
    secrets.refuse(given)
    path = run / CHOSEN if run else None
    before = read_toml(path) if path and path.exists() else {}
    with naming_kept(run, before, given):
        chosen = _together(before, given)
        try:
            return ChosenSettings(run, before, given, _in_force(chosen))
        except RegistryError:
            if given or run is None or not (run / RESOLVED).exists():
                raise
            return ChosenSettings(run, before, given, build(read_toml(run / RESOLVED)))


def check_run(run: Path) -> None:
    """Refuse a folder that is not a run; `StoreError` names a similar one that may have been meant."""
    stamps.check_there(run)
    if not (run / CHOSEN).exists():
        raise StoreError(f"{run}: not a run directory (no {CHOSEN}); {stamps.BEGIN}")


def check_readable(run: Path) -> None:
    """Refuse to read from a folder that is no run, before an advice would make it one."""
    stamps.check_there(run)
    if not (run / "prepare").is_dir():
        check_run(run)


def configure(run: Path | None, given: Settings | None = None) -> Config:
    """All settings in use, see `request`."""
    return request(run, given or {}).config


@contextmanager
def naming_kept(run: Path | None, before: Settings, given: Settings) -> Iterator[None]:
    """Adds to an error about a setting kept in the run where it is kept, and how to reset it."""
    try:
        yield
    except Llm4sbrError as error:
        kept = {key: value for key, value in flatten(before).items() if key not in flatten(given)}
        found = next((key for key, value in kept.items() if _is_about(str(error), key, value)), None)
        if run is not None and found is not None and CHOSEN not in str(error):
            place = f"{found} = {kept[found]!r} is kept in {run / CHOSEN}"
            back = f"llm4sbr config {run} --set {found}=default takes it back"
            error.args = (f"{error}; {place}; {back}", *error.args[1:])
        raise


_ADVISED = re.compile(r"--[\w-]+ \S+")


def _is_about(text: str, key: str, value: Any) -> bool:
    text = _ADVISED.sub("", text)  # what a message advises is not what it complains of
    section, _, leaf = key.rpartition(".")
    if section.endswith("options") and repr(leaf) in text:
        return True
    if key == "data.path" or not isinstance(value, str):  # errors about data name files in it
        return key in text
    return key in text or repr(value) in text or (len(value) > 3 and value in text)


def _together(before: Settings, given: Settings) -> Settings:
    return with_full_paths(without_defaults(components.added(before, given)))


def _in_force(chosen: Settings) -> Config:
    suggested = [
        nest(registry.suggestions("readers", _named(chosen, "data.reader"))),
        nest(registry.suggestions("llms", _named(chosen, "infer.llm"))),
        nest(PROTOCOLS.get(_named(chosen, "protocol"), {})),  # a wrong one is refused below
    ]
    return build(*suggested, chosen)


def _named(chosen: Settings, key: str) -> str:
    """The chosen name, or its default."""
    value: Any = flatten(chosen).get(key, DEFAULT)
    return str(flatten(Config().model_dump())[key] if value in (DEFAULT, None) else value)


def default_run(given: Settings) -> Path:
    """The default run folder: `runs/DATASET-LLM`, or `runs/DATASET-LLM-PROTOCOL`."""
    label = f"{_named(given, 'data.reader')}-{_named(given, 'infer.llm')}"
    protocol = _named(given, "protocol")
    label += "" if protocol == "default" else f"-{protocol}"
    return Path("runs") / "".join(c if c.isalnum() or c in "-._" else "-" for c in label)
