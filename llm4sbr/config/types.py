"""Types of settings with constraints, so that a wrong value is refused when it is set, not hours later."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from llm4sbr.config.layers import DEFAULT
from llm4sbr.errors import ConfigError

AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([smh])|(\d+)")
"""`90s`, `30m`, `2h`, or a number."""

LARGEST = 2**31
"""Upper limit of counts and sizes, which all libraries can handle."""

SEEDS = 2**62
"""Upper limit of seeds, to which the number of the repetition is added."""


def without_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as plain TOML values, without those that are `DEFAULT` or None, or sections of none.

    Raises:
        ConfigError: a value is none of those that TOML has.
    """
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            if rest := without_defaults(value):
                kept[key] = rest
        elif value is not None and not (isinstance(value, str) and value == DEFAULT):
            kept[key] = _plain(key, value)
    return kept


def _plain(key: str, value: Any) -> Any:
    """A value as TOML has it: numpy numbers become Python's, paths strings; `ConfigError` for other types."""
    if isinstance(value, list | tuple):
        return [_plain(key, one) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(f"{key}.{name}", one) for name, one in value.items()}
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, str | int | float | date | time):
        raise ConfigError(f"{key} = {value!r}: expected text, a number, true or false, or a list of these")
    return value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("something is named twice")
    return values


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("at least one is needed")
    return values


def _lengths(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(value < 1 for value in values):
        raise ValueError("a list has at least one item")
    return values


def check_lengths(k: Sequence[int], items: int) -> None:
    """Refuse list lengths above the number of `items` in the catalogue."""
    if not k or min(k) < 1 or max(k) > items:
        raise ConfigError(f"evaluate.k = {list(k)}: a list has 1 to {items} items here, the whole catalogue")


def _without_empty(options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: chosen for name, chosen in options.items() if chosen}


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", value):
        raise ValueError("expected auto, cpu, cuda or cuda:1")
    return value


def _text_of_number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _amount(value: str | None) -> str | None:
    if value is not None and value != "none" and not AMOUNT.fullmatch(value.strip()):
        raise ValueError("expected prompts (20000), a time (90s, 30m, 2h), or none")
    return value


Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]
SomeNames = Annotated[Names, AfterValidator(_some)]
Lengths = Annotated[
    tuple[int, ...], AfterValidator(_distinct), AfterValidator(_lengths), AfterValidator(_some)
]
"""List lengths K."""

OptionsByName = Annotated[dict[str, dict[str, Any]], AfterValidator(_without_empty)]
"""Name of a component -> its options."""

Device = Annotated[str, AfterValidator(_device)]
"""Name of a PyTorch device, or `auto`."""

Amount = Annotated[str | None, BeforeValidator(_text_of_number), AfterValidator(_amount)]
"""A number of prompts, a time, `none`, or None."""
