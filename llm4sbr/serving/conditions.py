r"""Conditions on items, from a text such as `category = Lighting; price <= 30; not in_stock`.

    conditions = condition { ";" condition }
    condition  = [ "not" ] name [ comparison ]
    comparison = ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
               | [ "not" ] "in" ( values | "(" values ")" )
               | [ "not" ] "contains" value
    values     = value { "," value }

A name without a comparison is a named filter, any other an attribute. Names and values are written as they
are, or in quotation marks with \" and \\ inside, which they need if they have a sign of the grammar in
them. All conditions must hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from llm4sbr.errors import InputError

LONGEST = 1000
"""Maximum length of a condition in characters."""

MOST = 32
"""Maximum number of conditions."""

OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "in", "contains")

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PART = re.compile(rf"(?:{_QUOTED}|[^\";])*")
_SIGN = re.compile(rf"\s*({_QUOTED}|[^\"=!<>]*?)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_WORD = re.compile(rf"\s*({_QUOTED}|[^\"=!<>]*?)\s+(?:(not)\s+)?(in|contains)\s+(.*)", re.DOTALL)
_NAME = re.compile(rf"\s*({_QUOTED}|[^\"=!<>]+)\s*")
_NOT = re.compile(r"\s*not\s+")
_VALUE = re.compile(rf"\s*({_QUOTED}|[^\",]*)\s*(,|$)")


class Condition(NamedTuple):
    """One condition."""

    name: str
    operator: str
    """One of `OPERATORS`; "" for a named filter."""
    values: tuple[str, ...] = ()
    """One, but for `in`."""
    negated: bool = False

    def __str__(self) -> str:
        first = "not " if self.negated else ""
        values = ", ".join(self.values)
        return f"{first}{self.name} {self.operator} {values}".rstrip()


def parse(given: str | Sequence[str]) -> tuple[Condition, ...]:
    """The conditions in a text, or in several.

    Raises:
        InputError: the text is no condition, too long, or there are more than `MOST`.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(one, str) for one in texts):
        raise InputError("where: expected a condition such as 'price <= 30', or a list of them")
    if sum(map(len, texts)) > LONGEST * MOST:
        raise InputError(f"where: longer than {LONGEST * MOST:,} characters")
    found = tuple(_condition(part) for text in texts for part in _parts(text))
    if len(found) > MOST:
        raise InputError(f"where: {len(found)} conditions, at most {MOST} are allowed")
    return found


def _parts(text: str) -> list[str]:
    """The texts between semicolons that are not in quotation marks."""
    found, at = [], 0
    while at <= len(text):
        part = _PART.match(text, at)
        assert part is not None  # it may be empty
        if part.end() < len(text) and text[part.end()] != ";":
            raise InputError(f"where: {text[at:]!r:.80}: a quotation mark is not closed")
        found.append(part[0])
        at = part.end() + 1
    return [part for part in found if part.strip()]


def _condition(text: str) -> Condition:
    if len(text) > LONGEST:
        raise InputError(f"where: {text!r:.60}: longer than {LONGEST} characters")
    said = text.strip()
    first = _NOT.match(text)
    negated = first is not None
    rest = text[first.end() :] if first else text
    sign, word, name = _SIGN.fullmatch(rest), _WORD.fullmatch(rest), _NAME.fullmatch(rest)
    if word and (not sign or len(word[1]) < len(sign[1])):
        values = _values(word[4], said) if word[3] == "in" else (_value(word[4], said),)
        return Condition(_bare(word[1], said), word[3], values, negated != bool(word[2]))
    if sign:
        return Condition(_bare(sign[1], said), sign[2], (_value(sign[3], said),), negated)
    if name is None:
        raise InputError(f"where: {said!r:.80}: not a condition such as 'price <= 30' or 'category = Lamps'")
    return Condition(_bare(name[1], said), "", (), negated)


def _bare(text: str, said: str) -> str:
    text = text.strip()
    found = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL) if text.startswith('"') else text
    if not found:
        raise InputError(f"where: {said!r:.80}: a name is missing")
    return found


def _value(text: str, said: str) -> str:
    """The value that a text is, if it is one."""
    text = text.strip()
    if re.fullmatch(_QUOTED, text, re.DOTALL):
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    if not text or text[0] in "=!<>" or '"' in text:
        raise InputError(f'where: {said!r:.80}: expected a value; "" stands for one that is unknown')
    return text


def _values(text: str, said: str) -> tuple[str, ...]:
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    found, at = [], 0
    while True:
        one = _VALUE.match(text, at)
        if one is None:
            raise InputError(f"where: {said!r:.80}: expected values separated by commas")
        found.append(_value(one[1], said))
        at = one.end()
        if not one[2]:
            return tuple(found)
