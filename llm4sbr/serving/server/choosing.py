"""The part of a request that says which items a list may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.filters import Choice
from llm4sbr.serving.recommendation import UNKNOWN
from llm4sbr.serving.server.http import Refusal

FIELDS = ("k", "unknown", "only", "without", "where")
"""What such a part may hold."""

MOST_ITEMS = 10_000
"""Maximum number of items in `only` or `without`; named filters are for more."""


class Chosen(NamedTuple):
    """How many items are wanted, and from where."""

    k: int
    unknown: str
    """What to do with items that the model does not know: `skip` or `fail`."""
    choice: Choice | None
    """None for the whole catalogue."""


def read(given: Mapping[str, Any], artefact: Artefact, *, k: int) -> Chosen:
    """`{"k": 10, "unknown": "skip", "only": [...], "without": [...], "where": ["price <= 30"]}`.

    Args:
        given: a request, or its parameters; lists may be texts with commas.
        artefact: the model.
        k: length of the list where none is asked for.

    Raises:
        Refusal: 400, and what is wrong.
        InputError: likewise.
    """
    k = given.get("k", k)
    if type(k) is not int or not 1 <= k <= artefact.k:
        raise Refusal(400, f"k: expected a number from 1 to {artefact.k}, the length exported")
    unknown = given.get("unknown", "skip")
    if unknown not in UNKNOWN:
        raise Refusal(400, f"unknown: expected {' or '.join(UNKNOWN)}")
    choice = Choice.of(given.get("only"), given.get("without") or (), given.get("where") or ())
    for name in ("only", "without"):
        count = len(getattr(choice, name, None) or ())
        if count > MOST_ITEMS:
            raise Refusal(400, f"{name}: {count:,} items, at most {MOST_ITEMS:,}; a named filter takes more")
    return Chosen(k, unknown, choice)
