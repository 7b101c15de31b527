"""Texts of others, made fit for a terminal: without control characters, keys and endless lines.

Titles, answers, servers' messages and fields of files may hold escape sequences, with which a terminal moves
the cursor, changes its title or runs worse, and marks that reverse the direction of what is read.
"""

from __future__ import annotations

import re

from llm4sbr.secrets import mask

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Everything that is no mark on the screen, but for tabs and line breaks."""

CELL = 300
"""Characters of a title, or of what else is in a cell of a table, that are shown."""

LINE = 4000
"""Characters of a line that are shown."""


def printable(text: str, *, most: int = LINE) -> str:
    """The text for a terminal: one mark per control character, `***` for keys, cut to `most` characters."""
    return short(CONTROL.sub("\ufffd", mask(text)), most)


def short(text: str, most: int = CELL) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else f"{text[:most]} ..."


def escaped(json: str) -> str:
    """JSON with escapes for control characters, of which JSON itself only escapes those of ASCII."""
    return CONTROL.sub(lambda found: found[0] if found[0] < " " else f"\\u{ord(found[0]):04x}", json)
