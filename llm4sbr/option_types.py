"""Checks options against the type hints of a component's constructor."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_type_hints

PLAIN = (str, bool, int, float)


def wrong_types(factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the type of options, by name.

    Only plain values (texts, numbers, true and false) are looked at, and only where the signature has a hint
    that can be understood; which values of a right type are allowed is said best by the component itself.
    """
    given = {name: value for name, value in options.items() if isinstance(value, PLAIN)}
    hints = _hints(factory) if given else {}
    found = {name: _problem(value, hints[name]) for name, value in given.items() if name in hints}
    return {name: problem for name, problem in found.items() if problem}


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(factory, partial):
        factory = factory.func
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except Exception:  # names that are there for type checkers only, or no Python function
        return {}


def _problem(value: Any, hint: Any) -> str:
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        read = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        detail = error.errors()[0]
        if detail["type"] == "sequence_str" and isinstance(value, str):
            listed = json.dumps([one.strip() for one in value.split(",")], ensure_ascii=False)
            return f"a list is expected, written as {listed}"
        return "" if detail["type"] == "literal_error" else detail["msg"].lower()
    except PydanticUserError:  # a hint that only a type checker understands
        return ""
    wider = isinstance(value, int) and not isinstance(value, bool) and isinstance(read, float)
    if type(read) is type(value) or wider or not isinstance(read, PLAIN):
        return ""
    return f"expected {type(read).__name__}, found {type(value).__name__}"
