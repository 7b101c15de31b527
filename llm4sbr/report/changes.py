"""Which test samples gain and lose by the LLM's intents: `changes.json` as a table and as examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm4sbr.evaluation.verdict import CONTROLS
from llm4sbr.report.formats import MISSING, count, percent
from llm4sbr.report.table import Table, cells

RECORD = "changes.json"
"""In the folder of `evaluate`; only of a run with intents of an LLM."""

COMPARED = {"none": "the same model without intents", "plain": "the plain backbone"}
"""What the model is compared with -> its name in the table."""


class Example(NamedTuple):
    """A sample whose next click changed its rank, and what was said about it."""

    kind: str
    """`gained` or `lost`."""
    ranks: str
    """`rank 340 -> 2`: without and with the intents, of every seed."""
    clicks: Sequence[str]
    """Titles, oldest first."""
    target: str
    answers: Sequence[Mapping[str, Any]]
    """Per perspective `perspective`, `answer`, `parsed` and `tied`, titles with their weights."""


def changes_table(changes: Mapping[str, Any], llm: str | None) -> Table:
    """How many samples gain and lose.

    Args:
        changes: the content of `changes.json`.
        llm: name of the LLM, or of the control in its place.
    """
    k = changes["k"]
    header = cells(
        "against", "gain", "lose", "same", f"into the {k}", f"out of the {k}", "named: gain", "lose"
    )
    lines = [
        cells(
            COMPARED.get(one["name"], one["name"]),
            *(count(one[name]) for name in ("gained", "lost", "same", "found", "missed")),
            _share(one["gained_named"], one["gained"]),
            _share(one["lost_named"], one["lost"]),
        )
        for one in changes["over"]
    ]
    what = f"a text from {llm}" if llm in CONTROLS else "an answer"
    legend = (
        "gain, lose: the next click has a better or a worse rank with the intents, by the mean of 1 / rank. "
        f"into, out of the {k}: it is in the first {k} only with them, or only without. named: the share of "
        "those that gain, or lose, of which the text was tied to the next click itself."
    )
    caption = f"Who gains and who loses by the intents: {count(changes['samples'])} test samples with {what}"
    return Table(caption, header, lines, legend)


def examples(changes: Mapping[str, Any]) -> list[Example]:
    """The samples that gain most, then those that lose most, over the first row of the table."""
    return [
        Example(kind, _ranks(one), one["clicks"], one["target"], one["answers"])
        for kind in ("gained", "lost")
        for one in changes["examples"][kind]
    ]


def rule(changes: Mapping[str, Any]) -> str:
    """How the examples were chosen."""
    first = COMPARED.get(changes["over"][0]["name"], changes["over"][0]["name"])
    return (
        f"The samples that gain most and lose most against {first}, by 1 / rank, at most one of a session; "
        "equal ones in the order of a hash of their items."
    )


def _ranks(example: Mapping[str, Any]) -> str:
    without, own = (", ".join(map(count, example[name])) for name in ("ranks_without", "ranks"))
    return f"rank {without} -> {own}"


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else MISSING
