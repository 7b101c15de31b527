"""Reads sessions line by line and prints a recommendation for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from llm4sbr.errors import InputError
from llm4sbr.serving.recommendation import Recommendation

LONGEST = 1_000_000
"""Maximum length of a line in characters."""


class LineReply(NamedTuple):
    """The answer to one line."""

    value: dict[str, Any]
    """`line`, and either `error` or what `Recommendation.as_dict` holds."""
    good: bool


def replies(
    lines: Iterable[bytes], recommend: Callable[[str | list[str | int]], Recommendation]
) -> Iterator[LineReply]:
    """Answer every line as it comes; an invalid one is answered with its error.

    A line is a session: a JSON list of keys, titles (text) and catalogue ids (numbers), or else a text as
    `parse_session` takes it. Empty lines are skipped.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield LineReply({"line": number} | recommend(_session(line)).as_dict(), True)
        except InputError as error:
            yield LineReply({"line": number, "error": " ".join(str(error).split())}, False)


def _session(line: bytes) -> str | list[str | int]:
    return session_of(text_of(line))


def text_of(line: bytes) -> str:
    """A line's text; `InputError` if it is too long or not UTF-8."""
    if len(line) > LONGEST:
        raise InputError(f"{len(line):,} bytes; a line has at most {LONGEST:,}")
    try:
        return line.decode("utf-8-sig").strip()  # files from Windows begin with a byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 from byte {error.start} on") from None


def session_of(given: object) -> str | list[str | int]:
    """A session from a text, which may hold a list in JSON, or a list; `InputError` if it is none."""
    if isinstance(given, str):
        text, given = given.strip(), json_of(given, "[")
        if given is None:
            return text  # also a title that begins with a bracket
    if not isinstance(given, list) or not all(type(one) in (str, int) for one in given):
        raise InputError("a session is a text, or a list of texts (keys, titles) and whole numbers (ids)")
    return given


def json_of(text: str, first: str) -> Any:
    """The JSON value in a text that begins with a certain character; None if there is none."""
    if not text.lstrip().startswith(first):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
