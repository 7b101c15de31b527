"""Settings that choose a component, and the options that belong to it."""

from __future__ import annotations

from typing import Any

from llm4sbr import registry
from llm4sbr.config import Config, Settings, merge, to_settings

OPTIONS = {
    "data.reader": ("readers", "data.options"),
    "infer.llm": ("llms", "infer.options"),
    "localize.encoder": ("encoders", "localize.encoder_options"),
    "localize.localizer": ("localizers", "localize.options"),
    "train.backbone": ("backbones", "train.options"),
    "train.fuser": ("fusers", "train.fuser_options"),
    "engine.name": ("engines", "engine.options"),
}
"""Setting that names a component -> its kind, and the setting that holds its options."""


def added(before: Settings, given: Settings) -> Settings:
    """Merge earlier and new settings; if a component is replaced, its options are removed with it.

    `openai:A` and `openai:B` are one component.
    """
    kept = merge(before)
    for name, (_, options) in OPTIONS.items():
        old, new = _at(before, name), _at(given, name)
        if isinstance(old, str) and new is not None and str(new).partition(":")[0] != old.partition(":")[0]:
            section, _, key = options.partition(".")
            kept[section] = {k: value for k, value in kept[section].items() if k != key}
    return merge(kept, given)


def check(given: Settings, config: Config) -> None:
    """Refuse new options that their component does not accept, and options that a new component does not.

    They are looked at before anything is recorded: a run must not keep what it cannot use, and a key that
    somebody takes for an option must not reach its files.

    Raises:
        RegistryError: as `registry.check`.
    """
    values = to_settings(config)
    for name, (kind, options) in OPTIONS.items():
        if _at(given, name) is not None or _at(given, options) is not None:
            registry.check(kind, _at(values, name), _at(values, options) or {})


def _at(settings: Settings, dotted: str) -> Any:
    value: Any = settings
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
