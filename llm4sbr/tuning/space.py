"""The search space of a run's model: components declare it, and the user may change it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from llm4sbr import registry
from llm4sbr.config import Config, TrainConfig, build, flatten, merge, nest, to_settings
from llm4sbr.config.space import Dimension, Space, declared
from llm4sbr.errors import ConfigError
from llm4sbr.freshness import ALONE, FUSION, LINEAR, NEUTRAL, PLAIN, WHICH_MODELS

COMPONENTS = {
    "train.options": ("backbones", "train.backbone"),
    "train.fuser_options": ("fusers", "train.fuser"),
}
"""Settings with a component's options -> the kind of component, and the setting that has its name."""

NAMES = ("train.backbone", "train.fuser")
"""Settings that name a component. They are not searched, since each component has its own search space."""


def search_space(config: Config, variant: str, changes: Mapping[str, Dimension | None]) -> Space:
    """The search space of one model, extended where needed to contain the current values.

    Args:
        config: the run's configuration.
        variant: the model's variant; without intents, options of the fuser are left out.
        changes: dimensions to replace, to add, or (None) to remove.

    Raises:
        ConfigError: a setting does not exist, cannot be searched, or does not accept a value.
        RegistryError: an option does not exist or does not accept a value.
    """
    space = declared(TrainConfig.tunes, prefix="train")
    for options, (kind, name) in COMPONENTS.items():
        space |= declared(registry.tunes(kind, _at(config, name)), prefix=options)
    space = {key: value for key, value in space.items() if _decides(key, variant)}
    for key, dimension in changes.items():
        if dimension is None and key not in space:
            raise ConfigError(f"--space {key}=: is not searched anyway; searched are {', '.join(space)}")
        _check(config, variant, key, (dimension or space[key]).probes())
    space = {
        key: one for key in {**space, **changes} if (one := changes.get(key, space.get(key))) is not None
    }
    if not space:
        raise ConfigError("nothing is left to search; give --space KEY=VALUES")
    current = in_force(config, space)
    return {key: dimension.including(current.get(key)) for key, dimension in space.items()}


def in_force(config: Config, space: Space) -> dict[str, Any]:
    """The current values of the settings in a space, by dotted key; for options maybe their defaults."""
    flat = flatten(to_settings(config))
    return {key: flat[key] if key in flat else _default(config, key) for key in space}


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with changed values of some settings."""
    return build(merge(to_settings(config), nest(values)))


def _decides(key: str, variant: str) -> bool:
    if variant in ALONE and key.startswith(FUSION):
        return False
    return variant != PLAIN or not key.startswith(LINEAR)


def _check(config: Config, variant: str, key: str, values: tuple[Any, ...]) -> None:
    if not key.startswith("train."):
        raise ConfigError(
            f"--space {key}: only settings of train can be searched, since trials share data and intents; "
            "llm4sbr experiment --vary compares others"
        )
    if key in NAMES:
        raise ConfigError(
            f"--space {key}: components are compared by llm4sbr experiment, with --vary {key}=A,B"
        )
    if key.startswith(WHICH_MODELS) or key in NEUTRAL or key in COMPONENTS:
        raise ConfigError(f"--space {key}: does not decide how a model is trained")
    if not _decides(key, variant):
        raise ConfigError(f"--space {key}: does not decide anything of the variant {variant}")
    for value in values:
        with_values(config, {key: value})
    options, _, option = key.rpartition(".")
    if options in COMPONENTS:
        kind, name = COMPONENTS[options]
        for value in values:
            registry.check(kind, _at(config, name), {option: value})


def _at(config: Config, key: str) -> str:
    return str(flatten(to_settings(config))[key])


def _default(config: Config, key: str) -> Any:
    """The default of an option in the component's constructor; None if there is none."""
    options, _, option = key.rpartition(".")
    if options not in COMPONENTS:
        return None
    kind, name = COMPONENTS[options]
    known = inspect.signature(registry.load(kind, _at(config, name))).parameters.get(option)
    return None if known is None or known.default is known.empty else known.default
