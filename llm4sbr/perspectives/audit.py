"""A prompt must not know its sample's target: looked at before anything is asked.

A perspective is given the prefix only, so a title that follows it can be in its prompt for honest reasons:
the prefix names it too, the question's own words do, or the perspective offers candidates and says so.
Anything else is a leak, and the run stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from llm4sbr.errors import DataError
from llm4sbr.perspectives.parsing import one_line
from llm4sbr.protocols import Item, Perspective

__all__ = ["Audit"]

BLANK = "\x00"
"""Stands where a text of the prefix stood; no prompt has it, since titles lose control characters."""


class Audit:
    """Compares prompts with the titles that follow: as they are, as `one_line` shows them, without a year.

    Args:
        views: the perspectives by name. One that names items beyond the prefix, such as candidates out of
            training data, has a method `candidates(items)` that returns them.
    """

    def __init__(self, views: Mapping[str, Perspective]) -> None:
        self._views = views
        self._neutral: dict[tuple[str, int], str] = {}
        self._named: dict[int, tuple[str, ...]] = {}

    def check(self, prefix: Sequence[Item], targets: Iterable[Item], prompts: Sequence[str]) -> None:
        """Look at the prompts of one sample, one per perspective.

        Raises:
            DataError: one of them names a target that the prefix does not.
        """
        there = {item.id for item in prefix}
        for target in targets:
            if target.id in there:
                continue
            if target.id not in self._named:
                self._named[target.id] = tuple(_forms(target.title))
            for name, prompt in zip(self._views, prompts, strict=True):
                for title in self._named[target.id]:
                    if title in prompt and self._leaks(name, prefix, title, prompt):
                        raise DataError(
                            f"infer: the prompt of perspective {name!r} names the target "
                            f"{one_line(target.title)!r} of its sample "
                            f"(prefix {', '.join(one_line(item.title) for item in prefix[-3:])}); "
                            "a perspective may use the prefix only"
                        )

    def _leaks(self, name: str, prefix: Sequence[Item], title: str, prompt: str) -> bool:
        offered = getattr(self._views[name], "candidates", lambda items: ())(prefix)
        known = _without([*prefix, *offered], title, prompt)
        return _count(title, known) > _count(title, self._words(name, len(prefix)))

    def _words(self, name: str, length: int) -> str:
        """The perspective's own words: its prompt about items that have no text."""
        if (name, length) not in self._neutral:
            items = [Item(0, "", "-")] * length
            self._neutral[name, length] = self._views[name].prompt(items)
        return self._neutral[name, length]


def _forms(text: str) -> set[str]:
    """How a prompt may show a text: as it is, on one line, cut, and either without a year."""
    lines = {text, one_line(text, len(text)), one_line(text)}
    return {form for line in lines for form in (line, re.sub(r" *\(\d{4}\)$", "", line)) if form.strip()}


def _without(items: Iterable[Item], title: str, prompt: str) -> str:
    """The prompt without those texts of the items that explain why the title is in it."""
    texts = {
        text for item in items for text in (item.title, item.key, str(item.id), *item.attributes.values())
    }
    forms = {form for text in texts for form in _forms(text) if title in form}
    for form in sorted(forms, key=len, reverse=True):
        prompt = _blanked(form, form.index(title) + len(title), prompt)
    return prompt


def _blanked(text: str, least: int, prompt: str) -> str:
    """The prompt without a text, wherever it is whole, or cut visibly behind its first `least` characters."""
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
    """How often the title stands in a text as words of its own."""
    return len(re.findall(rf"(?<!\w){re.escape(title)}(?!\w)", text))
