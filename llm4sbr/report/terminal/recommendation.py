"""What `llm4sbr recommend` prints without `--json`."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.terminal.layout import grid, show

AS_TYPED = ("key", "title", "id")
"""Ways to recognise an item that are exact, so that nothing is printed about them."""


class Result(Protocol):
    """A result that can be converted to values for JSON."""

    def as_dict(self) -> dict[str, Any]:
        """The result as values for JSON."""
        ...


def show_recommendation(found: Result, repeated: Container[str] = ()) -> None:
    """Print a recommendation: the list, the LLM's answers, and the items that these were tied to.

    Args:
        found: the recommendation.
        repeated: titles that several items have, which are shown with the item's key.
    """
    show(*recommendation_tables(found.as_dict(), repeated))


def recommendation_tables(found: Mapping[str, Any], repeated: Container[str] = ()) -> list[RenderableType]:
    """A recommendation's parts; `found` is `Recommendation.as_dict()` of `serving.recommendation`."""
    named = partial(_named, repeated=repeated)
    names = list(dict.fromkeys(name for item in found["items"] for name in item.get("attributes", ())))
    lines = [
        [str(rank), named(item), *_told(item, names), f"{item['score']:.3f}"]
        for rank, item in enumerate(found["items"], 1)
    ]
    session = " | ".join(map(named, found["session"])) or "no known item"
    parts: list[RenderableType] = [
        *_understood(found["session"], repeated),
        *(Text(f"{text!r} left out: no item is called so") for text in found["left_out"]),
        *map(Text, found["notes"]),
        Text(f"After {session} ({_model(found)}{_passing(found)}):"),
    ]
    if lines:
        parts.append(grid(["", "title", *names, "score"], lines, left=2 + len(names)))
    if found["intents"] is not None:
        parts += _intent_tables(
            found["intents"], "the LLM" if found["variant"] == "llm" else found["variant"]
        )
    return parts


def _model(found: Mapping[str, Any]) -> str:
    seed = "" if found["seed"] is None else f", seed {found['seed']}"
    engine = "" if found["engine"] == "pytorch" else f", by {found['engine']}"
    return f"model {found['variant']}{seed}{engine}"


def _passing(found: Mapping[str, Any]) -> str:
    return "" if found["passing"] is None else f", of {found['passing']:,} items that pass"


def _named(item: Mapping[str, Any], repeated: Container[str]) -> str:
    """An item's title, with its key if others have the same."""
    return f"{item['title']} [{item['key']}]" if item["title"] in repeated else item["title"]


def _told(item: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [str(item["attributes"].get(name, "")) for name in names]


def _understood(session: Sequence[Mapping[str, Any]], repeated: Container[str]) -> list[RenderableType]:
    """A line for each item whose text differs from the catalogue's, or is the title of others, too."""
    lines = [
        f"{item['text']!r} taken for {_named(item, repeated)} ({item['how']})"
        for item in session
        if item["how"] not in AS_TYPED or (item["how"] == "title" and item["title"] in repeated)
    ]
    return [Text("\n".join(lines))] if lines else []


def _intent_tables(intents: Mapping[str, Any], who: str) -> list[RenderableType]:
    known = " | ".join(intents["session"])
    origin = {
        "cache": f"What {who} said about this session:",
        "items": f"What {who} said about the last item{known and f', {known}'}:",
        "nearest": f"What {who} said about the nearest known session, {known}:",
        "predictor": f"Predicted intents of {who}, shown by the most similar items:",
        "none": "No intents were used.",
    }
    own = not any(one["answer"] for one in intents["perspectives"])  # an exported model has no answers' texts
    if intents["source"] == "predictor" or (intents["source"] == "items" and own):
        if not intents["perspectives"]:
            what = "were predicted" if intents["source"] == "predictor" else "are those of the last item"
            return [Text(f"The intents {what}; this exported model cannot show items similar to them.")]
        tied, weighed = "similar to", "cosine"
    else:
        tied, weighed = "tied to", "weight"
    parts: list[RenderableType] = [Text(origin[intents["source"]])]
    for intent in intents["perspectives"]:
        said = " / ".join(intent["answer"].splitlines()) or "no usable answer"
        parts.append(
            Text(intent["perspective"] if tied == "similar to" else f"{intent['perspective']}: {said}")
        )
        if intent["items"]:
            rows = [[item["title"], f"{item['weight']:.2f}"] for item in intent["items"]]
            parts.append(grid([tied, weighed], rows))
    return parts
