"""Reads letters and ratings out of an LLM's answers."""

from __future__ import annotations

import re

from llm4sbr_related.candidates import LETTERS

_ALONE = re.compile(r"(?<![\w'’])([A-Z])(?=\s*(?:[.,:;)>*\]\-]|$)|\s+[A-Z]\b(?!['’]))", re.MULTILINE)  # noqa: RUF001
_NUMBER = re.compile(r"(?<![\w.])([1-5](?:\.\d+)?)(?![\w]|\.\d)")

HIGHEST = 5.0


def letters(answer: str, count: int) -> list[int]:
    """Positions of the letters in an answer, each once, in their order; only those of the first `count`.

    A letter counts where it stands alone before a mark, another letter or the end, so that neither "I think"
    nor "A Close Shave" names a candidate. An answer of letters only, such as "BAC", is read letter by letter.
    """
    known = LETTERS[:count]
    text = answer.strip()
    found = list(text) if 1 < len(text) <= count and set(text) <= set(known) else _ALONE.findall(text)
    return list(dict.fromkeys(known.index(letter) for letter in found if letter in known))


def rating(answer: str, *, whole: bool) -> float:
    """The first number from 1 to 5 in an answer, 0 if there is none; with `whole` cut to an integer."""
    found = [float(text) for text in _NUMBER.findall(answer) if float(text) <= HIGHEST]
    value = found[0] if found else 0.0
    return float(int(value)) if whole else value
