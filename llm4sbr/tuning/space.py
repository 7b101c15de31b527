"""The search space of a run's model: declared by its components, changed by the user, checked before use."""

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
"""Setting with options that can be searched -> kind of the component, and the setting that names it."""

NAMES = ("train.backbone", "train.fuser")
"""Components are compared by an experiment, since each has a space of its own."""


def search_space(config: Config, variant: str, changes: Mapping[str, Dimension | None]) -> Space:
    """What is searched, with the values in force as a part of it.

    Args:
        config: of the run.
        variant: of the model; one without intents does not depend on the fuser.
        changes: dimensions to replace, to add, or (None) to leave out.

    Raises:
        ConfigError, RegistryError: a setting that does not exist, cannot be searched, or not with this value.
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
    """The run's own values of what is searched, by dotted key; those of options may be the constructor's."""
    flat = flatten(to_settings(config))
    return {key: flat[key] if key in flat else _default(config, key) for key in space}


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with other values of some settings."""
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
    """Of an option that nobody chose; None if its constructor has none."""
    options, _, option = key.rpartition(".")
    if options not in COMPONENTS:
        return None
    kind, name = COMPONENTS[options]
    known = inspect.signature(registry.load(kind, _at(config, name))).parameters.get(option)
    return None if known is None or known.default is known.empty else known.default
