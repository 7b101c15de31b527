"""Output of `evaluate` on the samples that gain and lose by the LLM's intents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.changes import Example, changes_table, examples, rule
from llm4sbr.report.terminal.layout import drawn

CLICKS = 3
"""Number of last clicks of a session that are shown."""
LONGEST = 160
"""Maximum number of characters of an answer that are shown."""


def changes_parts(changes: Mapping[str, Any], llm: str | None) -> list[RenderableType]:
    """The table of samples that gain and lose, and examples of both with their answers.

    Args:
        changes: the content of `changes.json`.
        llm: name of the LLM, or of the control that was used instead.
    """
    found = examples(changes)
    shown = [Text(rule(changes)), *map(_example, found)] if found else []
    return [*drawn(changes_table(changes, llm), caption=True), *shown]


def _example(one: Example) -> Text:
    lines = [f"{one.kind}, {one.ranks}: {one.target}, after {_clicks(one.clicks)}"]
    for answer in one.answers:
        said = _short(" / ".join((answer["answer"] or answer["parsed"]).splitlines()))
        lines.append(f"  {answer['perspective']}: {said or 'no usable answer'}")
        if answer["tied"]:
            tied = ", ".join(f"{title} {weight:.2f}" for title, weight in answer["tied"])
            lines.append(f"    tied to {_short(tied)}")
    return Text("\n".join(lines))


def _clicks(titles: Sequence[str]) -> str:
    more = "... | " if len(titles) > CLICKS else ""
    return more + " | ".join(titles[-CLICKS:])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
