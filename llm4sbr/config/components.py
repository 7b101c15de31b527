"""Settings that choose a component, and the options that belong to it."""

from __future__ import annotations

from typing import Any

from llm4sbr import registry
from llm4sbr.config import Config, Settings, merge, to_settings
from llm4sbr.errors import ConfigError

OPTIONS = {
    "data.reader": ("readers", "data.options"),
    "infer.llm": ("llms", "infer.options"),
    "localize.encoder": ("encoders", "localize.encoder_options"),
    "localize.localizer": ("localizers", "localize.options"),
    "train.backbone": ("backbones", "train.options"),
    "train.fuser": ("fusers", "train.fuser_options"),
    "evaluate.llm": ("llms", "evaluate.llm_options"),
    "engine.name": ("engines", "engine.options"),
}
"""Setting that names a component -> its kind, and the setting that holds its options."""

SUPPLIED = {
    "readers": {"path": "the setting path"},
    "localizers": {"f": "the setting f"},
    "backbones": {"num_items": "the catalogue", "dim": "the setting dim"},
    "fusers": {
        "num_items": "the catalogue",
        "dim": "the setting dim",
        "perspectives": "the perspectives asked for",
        "text_dim": "the encoder",
    },
    "baselines": {"num_items": "the catalogue"},
}
"""Arguments of constructors that are no options: kind -> name -> where the value comes from."""

BASELINES, BASELINE_OPTIONS = "train.baselines", "train.baseline_options"
"""The setting that names several components, and the one that holds the options of each, by name."""


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
    named = _at(given, BASELINES)
    if isinstance(named, list | tuple) and (options := _at(kept, BASELINE_OPTIONS)):
        left = {name: chosen for name, chosen in options.items() if name in named}
        kept["train"] = {**kept["train"], "baseline_options": left}
    return merge(kept, given)


def check(given: Settings, config: Config) -> None:
    """Refuse new options that their component does not accept, and options that a new component does not.

    They are looked at before anything is recorded: a run must not keep what it cannot use, and a key that
    somebody takes for an option must not reach its files.

    Raises:
        ConfigError: an option that has a setting of its own, or options of a baseline that is not in the
            table.
        RegistryError: as `registry.check`.
    """
    values = to_settings(config)
    for name, (kind, options) in OPTIONS.items():
        if _at(given, name) is not None or _at(given, options) is not None:
            _check(kind, str(_at(values, name)), options, _at(values, options) or {})
    if _at(given, BASELINES) is not None or _at(given, BASELINE_OPTIONS) is not None:
        for name, chosen in config.train.baseline_options.items():
            if name not in config.train.baselines:
                named = ", ".join(config.train.baselines) or "none"
                raise ConfigError(f"{BASELINE_OPTIONS}.{name}: {BASELINES} does not name it; it has {named}")
            _check("baselines", name, f"{BASELINE_OPTIONS}.{name}", chosen)


def _check(kind: str, name: str, where: str, options: Settings) -> None:
    for option in options.keys() & SUPPLIED.get(kind, {}).keys():
        raise ConfigError(f"{where}.{option}: no option; the value comes from {SUPPLIED[kind][option]}")
    registry.check(kind, name, options)


def _at(settings: Settings, dotted: str) -> Any:
    value: Any = settings
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
