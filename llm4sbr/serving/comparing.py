"""Compares the attributes of all items with what a condition says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm4sbr.errors import InputError
from llm4sbr.serving.attributes import Column, Numbers
from llm4sbr.serving.conditions import Condition

Passing = NDArray[np.bool_]

_COMPARED = ("<", "<=", ">", ">=")


def compared(column: Column, one: Condition) -> Passing:
    """Bool (N,), true where a condition on a column holds; a `not` before it is left to the caller.

    Raises:
        InputError: the column cannot be compared so.
    """
    if isinstance(column, Numbers):
        return _numbers(column, one)
    if one.operator in _COMPARED:
        raise InputError(f"where: {one}: {one.name} has texts; compare them with =, !=, in or contains")
    if one.operator == "contains":
        wanted = one.values[0].casefold()
        holds = np.array([wanted in value.casefold() for value in column.values], np.bool_)
        return np.asarray(holds[column.codes])
    codes = [column.places[value] for value in one.values if value in column.places]
    found: Passing = column.codes == codes[0] if len(codes) == 1 else np.isin(column.codes, codes)
    return ~found if one.operator == "!=" else found


def _numbers(column: Numbers, one: Condition) -> Passing:
    if one.operator == "contains":
        raise InputError(f"where: {one}: {one.name} has numbers; compare them with =, !=, <, <=, >, >= or in")
    numbers = [_number(value, one) for value in one.values]
    if one.operator in _COMPARED:
        if numbers[0] is None:
            raise InputError(f"where: {one}: expected a number")
        below = column.below(numbers[0], itself=one.operator in ("<=", ">"))
        return below if one.operator.startswith("<") else ~(below | column.equal(None))
    found = np.zeros(len(column.codes), np.bool_)
    for number in numbers:
        found |= column.equal(number)
    return ~found if one.operator == "!=" else found


def _number(value: str, one: Condition) -> float | None:
    """The number in a text; None for "", which stands for unknown."""
    if not value:
        return None
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"where: {one}: {one.name} has numbers, {value!r:.60} is none") from None
    if not np.isfinite(number):
        raise InputError(f"where: {one}: {value!r:.60} is no number")
    return number
