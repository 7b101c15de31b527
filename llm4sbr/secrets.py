"""Keeps keys out of files and messages: settings that hold one are refused, messages are masked.

Settings are written into the run, into stamps and into the answer cache, which people share. A key is known
by where it stands (a URL's user or query, an option called `api_key`), by its looks (`sk-...`), or because an
environment variable that is named like one has the same value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from llm4sbr.errors import ConfigError

NAMED = re.compile(
    r"(?:.*[_-])?(?:api[_-]?key|password|passwd|secret|authorization|credentials?)|key|token|"
    r"(?:access|auth|api|hf|bearer)[_-]?token",
    re.IGNORECASE,
)
"""Names of options that hold a key."""

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A name of an environment variable."""

LOOKS = re.compile(
    r"\b(?:[spr]k-(?=[\w-]*\d)[\w-]{20,}|(?:sk|rk|hf|gsk|ghp|r8)_[A-Za-z0-9]{20,}|(?:xai|nvapi)-[\w-]{20,}"
    r"|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|Bearer\s+[\w.~+/-]{16,}=*)"
)
"""How services write their keys."""

ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
"""Of names of environment variables that hold a key."""

SHORTEST = 8
"""Characters from which an environment variable's value is looked for."""


def refuse(settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if one of these nested settings is or holds a key; the message does not show it."""
    texts = list(_texts(settings, ""))
    variables = [value for where, value in texts if where.endswith("_env")]
    for where, value in texts:
        leaf = where.rpartition(".")[2]
        if leaf.endswith("_env"):
            usual = value.isupper() and value.endswith(ENDINGS)
            if not VARIABLE.fullmatch(value) or LOOKS.search(value) or not (usual or value in os.environ):
                raise ConfigError(
                    f"{where}: names an environment variable, and there is none of this name; put the key "
                    "into a variable, and the variable's name here"
                )
        elif NAMED.fullmatch(leaf) or _holds(value, "url" in leaf, variables):
            raise ConfigError(
                f"{where}: holds a key or a password, and settings are written into the run's files; put it "
                "into an environment variable (of openai: the one that infer.options.key_env names)"
            )


def mask(text: str, variables: Sequence[str] = ()) -> str:
    """The text with `***` for every key in it; to be called before a text is cut.

    Args:
        text: what will be shown.
        variables: names of environment variables that hold keys, whatever they are called.
    """
    for value in _values(variables):
        text = text.replace(value, "***")
    return LOOKS.sub("***", text)


def _holds(value: str, is_url: bool, variables: Sequence[str]) -> bool:
    """Whether a text has a key in it; a URL also in its user, query or fragment."""
    if any(one in value for one in _values(variables)) or LOOKS.search(value):
        return True
    if "://" not in value and not is_url:
        return False
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        return bool(parts.username or parts.password or (is_url and (parts.query or parts.fragment)))
    except ValueError:
        return "@" in value


def _values(variables: Sequence[str]) -> list[str]:
    """Values of environment variables that hold keys, by their name or as listed, the longest first."""
    named = {value for name, value in os.environ.items() if name.upper().endswith(ENDINGS)}
    named |= {os.environ.get(name, "") for name in variables}
    return sorted((value for value in named if len(value) >= SHORTEST), key=len, reverse=True)


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Dotted key and text of every text in nested settings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{where}.{key}" if where else str(key))
            yield f"{where}: the name of one", str(key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, where)
    elif isinstance(value, str):
        yield where, value
