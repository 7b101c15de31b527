"""Checks before the LLM is asked that no prompt contains the target of its sample.

A perspective gets only the prefix. The title of the target can still occur in the prompt for a legitimate
reason: it also occurs in the prefix, in the fixed words of the question, or among candidates that the
perspective declares. Any other occurrence is a leak, and the run stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from llm4sbr.errors import DataError
from llm4sbr.perspectives.parsing import one_line
from llm4sbr.protocols import Item, Perspective

__all__ = ["Audit"]

BLANK = "\x00"
"""Replaces texts of the prefix. No prompt contains it, because control characters are removed from titles."""


class Audit:
    """Searches prompts for target titles: verbatim, as `one_line` shows them, and without the year.

    Args:
        perspectives: by name. One that shows items beyond the prefix, such as candidates from
            training data, has a method `candidates(items)` that returns them.
    """

    def __init__(self, perspectives: Mapping[str, Perspective]) -> None:
        self._perspectives = perspectives
        self._neutral: dict[tuple[str, int], str] = {}
        self._named: dict[int, tuple[str, ...]] = {}

    def check(self, prefix: Sequence[Item], targets: Iterable[Item], prompts: Sequence[str]) -> None:
        """Check the prompts of one sample, one per perspective.

        Raises:
            DataError: a prompt contains a target that is not in the prefix.
        """
        there = {item.id for item in prefix}
        for target in targets:
            if target.id in there:
                continue
            if target.id not in self._named:
                self._named[target.id] = tuple(_forms(target.title))
            for name, prompt in zip(self._perspectives, prompts, strict=True):
                for title in self._named[target.id]:
                    if title in prompt and self._leaks(name, prefix, title, prompt):
                        raise DataError(
                            f"infer: the prompt of perspective {name!r} names the target "
                            f"{one_line(target.title)!r} of its sample "
                            f"(prefix {', '.join(one_line(item.title) for item in prefix[-3:])}); "
                            "a perspective may use the prefix only"
                        )

    def _leaks(self, name: str, prefix: Sequence[Item], title: str, prompt: str) -> bool:
        offered = getattr(self._perspectives[name], "candidates", lambda items: ())(prefix)
        known = _without([*prefix, *offered], title, prompt)
        return _count(title, known) > _count(title, self._words(name, len(prefix)))

    def _words(self, name: str, length: int) -> str:
        """The perspective's fixed words: its prompt for items without text."""
        if (name, length) not in self._neutral:
            items = [Item(0, "", "-")] * length
            self._neutral[name, length] = self._perspectives[name].prompt(items)
        return self._neutral[name, length]


def _forms(text: str) -> set[str]:
    """How a prompt may show a text: verbatim, on one line, truncated, each with and without a year."""
    lines = {text, one_line(text, len(text)), one_line(text)}
    return {form for line in lines for form in (line, re.sub(r" *\(\d{4}\)$", "", line)) if form.strip()}


def _without(items: Iterable[Item], title: str, prompt: str) -> str:
    """The prompt without those texts of the items that contain the title."""
    texts = {
        text for item in items for text in (item.title, item.key, str(item.id), *item.attributes.values())
    }
    forms = {form for text in texts for form in _forms(text) if title in form}
    for form in sorted(forms, key=len, reverse=True):
        prompt = _blanked(form, form.index(title) + len(title), prompt)
    return prompt


def _blanked(text: str, least: int, prompt: str) -> str:
    """The prompt without a text that is shown whole, or truncated after at least `least` characters."""
    parts, done = [], 0
    while (at := prompt.find(text[:least], done)) >= 0:
        same = least
        while same < len(text) and text[same : same + 1] == prompt[at + same : at + same + 1]:
            same += 1
        whole = same == len(text) or prompt[at + same : at + same + 1] == "…"
        parts += [prompt[done:at], BLANK if whole else prompt[at : at + same]]
        done = at + same
    return "".join([*parts, prompt[done:]])


def _count(title: str, text: str) -> int:
    """How often the title occurs in a text as whole words."""
    return len(re.findall(rf"(?<!\w){re.escape(title)}(?!\w)", text))
