"""Types of settings that say more than Python's: what is checked when a value is set, not hours later."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

LARGEST = 2**31
"""Of counts and sizes: what still fits into the numbers of every library behind them."""

SEEDS = 2**62
"""Of seeds, to which the number of a repetition is added."""


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


def _text_of_number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]
SomeNames = Annotated[Names, AfterValidator(_some)]
Lengths = Annotated[
    tuple[int, ...], AfterValidator(_distinct), AfterValidator(_lengths), AfterValidator(_some)
]
"""Lengths of lists, K."""

Amount = Annotated[str | None, BeforeValidator(_text_of_number)]
"""Text that may look like a number, or none."""
