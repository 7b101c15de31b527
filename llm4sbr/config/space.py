"""Spaces of values that a search tries: declared by components (`tunes`) or given on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from llm4sbr.config.layers import parse_values
from llm4sbr.errors import ConfigError

PLAIN = (str, bool, int, float)
"""Types of values that can be chosen among."""


class Span(NamedTuple):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Evenly distributed in the logarithm."""

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def probes(self) -> tuple[Any, ...]:
        """Values that must be allowed for all to be allowed."""
        return (self.low, self.high)

    def including(self, value: Any) -> Span:
        """The span, wide enough for a value; unchanged if it is no number that fits."""
        if isinstance(value, bool) or not isinstance(value, int | float) or (self.log and value <= 0):
            return self
        return Span(min(self.low, value), max(self.high, value), self.log)

    def has(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return not isinstance(value, bool | str) and value is not None and self.low <= value <= self.high


class Choice(NamedTuple):
    """One of a few values."""

    values: tuple[Any, ...]

    def probes(self) -> tuple[Any, ...]:
        """Values that must be allowed for all to be allowed."""
        return self.values

    def including(self, value: Any) -> Choice:
        """The choice, with a value that is a plain one."""
        known = value in self.values or not isinstance(value, PLAIN)
        return self if known else Choice((*self.values, value))

    def has(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.values


Dimension = Span | Choice
Space = dict[str, Dimension]
"""By dotted key of the setting."""


def declared(tunes: Mapping[str, Any], *, prefix: str) -> Space:
    """The space that a class attribute `tunes` declares, see `protocols`.

    Args:
        tunes: name of an option -> `[A, B]`, `(LOW, HIGH)` or `(LOW, HIGH, "log")`.
        prefix: of the settings, such as `train.options`.

    Raises:
        ConfigError: a value is none of these.
    """
    return {f"{prefix}.{name}": _dimension(f"{prefix}.{name}", value) for name, value in tunes.items()}


def given(texts: Iterable[str]) -> dict[str, Dimension | None]:
    """The dimensions of `KEY=A,B`, `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log`; `KEY=` takes one out (None).

    Raises:
        ConfigError: a text is none of these.
    """
    found: dict[str, Dimension | None] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (equals and key):
            raise ConfigError(f"--space {text}: expected KEY=A,B or KEY=LOW..HIGH or KEY=LOW..HIGH:log")
        found[key] = _read(text, value) if value else None
    return found


def _read(text: str, value: str) -> Dimension:
    span = re.fullmatch(r"(\S+?)\.\.(\S+?)(:log)?", value)
    if not span:
        return _dimension(f"--space {text}", parse_values("--space", text)[1])
    ends = tuple(parse_values("--space", f"end={end}")[1][0] for end in span.groups()[:2])
    return _dimension(f"--space {text}", (*ends, "log") if span[3] else ends)


def _dimension(where: str, value: Any) -> Dimension:
    if isinstance(value, list) and value and all(isinstance(one, PLAIN) for one in value):
        if len({(type(one), one) for one in value}) == len(value):
            return Choice(tuple(value))
    elif isinstance(value, tuple) and (len(value) == 2 or (len(value) == 3 and value[2] == "log")):
        low, high, log = value[0], value[1], len(value) == 3
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
        if numbers and low < high and (low > 0 or not log):
            return Span(low, high, log)
    raise ConfigError(
        f"{where}: {value!r} is no space; it is a list of different values, or two numbers, the lower first "
        "(both above 0 for a logarithm)"
    )


def words(dimension: Dimension) -> str:
    """A dimension as `--space` takes it."""
    if isinstance(dimension, Choice):
        return ",".join(map(str, dimension.values))
    return f"{dimension.low:g}..{dimension.high:g}{':log' if dimension.log else ''}"
