"""Settings as plain dictionaries: read from files and `key=value` texts, nested, flattened, merged."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm4sbr import store
from llm4sbr.errors import ConfigError, DamagedError, StoreError

DEFAULT = "default"
"""A value that resets a setting to its default."""

SEAL = "# sha256 of the lines above: "
"""Begins the last line of a file of settings that a command wrote."""

Settings = dict[str, Any]
"""Nested plain dictionaries, as in a TOML file; only what the user chose."""


def merge(*layers: Settings) -> Settings:
    """Merge nested dictionaries, later ones winning key by key."""
    merged: Settings = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge(merged[key], dict(value)) if both else value
    return merged


def nest(flat: Mapping[str, Any]) -> Settings:
    """`{"train.dim": 64}` -> `{"train": {"dim": 64}}`."""
    nested: Settings = {}
    for dotted, value in flat.items():
        for part in reversed(dotted.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"dim": 64}}` -> `{"train.dim": 64}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def parse_set(assignments: Sequence[str]) -> Settings:
    """Settings from `section.key=value` texts; values are TOML, and anything that is not TOML is a string.

    `section.key=` takes a choice back, as `section.key=default` does; the empty text is `section.key=""`.
    """
    flat: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: expected section.key=value, for instance --set train.dim=128")
        flat[key.strip()] = _value(value) if value.strip() else DEFAULT
    return nest(flat)


def parse_values(option: str, text: str) -> tuple[str, list[Any]]:
    """Key and values of a text such as `train.dim=50,100` or `train.fuser=gated,concat`.

    Raises:
        ConfigError: it has no key or no value; the message names the option.
    """
    key, equals, listed = (part.strip() for part in text.partition("="))
    if not (equals and key and listed):
        raise ConfigError(f"{option} {text}: expected section.key=VALUE,VALUE, such as train.dim=50,100")
    try:
        return key, list(tomllib.loads(f"values = [{listed}]")["values"])
    except tomllib.TOMLDecodeError:
        return key, [_value(part.strip()) for part in listed.split(",")]


def _value(text: str) -> Any:
    """A TOML value, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def write_settings(path: Path, text: str) -> None:
    """Write settings as TOML, with their hash in the last line."""
    store.write_text(path, f"{text}{SEAL}{store.fingerprint(text)}\n")


def read_toml(path: Path) -> Settings:
    """Settings of a TOML file.

    Raises:
        ConfigError: it cannot be read, or is invalid; the message says where.
        DamagedError: it ends with the hash of another text.
    """
    try:
        store.regular(path)
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except (OSError, StoreError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ")
        raise ConfigError(f"{path}: cannot read settings: {reason}") from None
    written, sealed, seal = text.rpartition(SEAL)
    if sealed and seal.strip() != store.fingerprint(written):
        raise DamagedError(
            f"{path}: changed since it was written (its sha256 differs); remove its last line if you have "
            "edited it"
        )
    return found
