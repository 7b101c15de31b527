"""What `llm4sbr intents` prints without `--json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.formats import MISSING, count
from llm4sbr.report.terminal.layout import grid, show

Found = Sequence[Mapping[str, Any]]
"""What a function of `serving.inspect` or `intents` returns, one mapping per line or session."""


def show_sessions(found: Found) -> None:
    """Print sessions, their answers, and the items that these were tied to."""
    show(*(part for one in found for part in _session(one)))


def _session(one: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(f"{' | '.join(one['session']) or 'a session that is no longer in the data'}, key {one['key']}")
    for intent in one["perspectives"]:
        missing = "answer not kept" if intent["items"] else "no usable answer"
        said = " / ".join(intent["answer"].splitlines()) or missing
        yield Text(f"{intent['perspective']}: {said}")
        if intent["items"]:
            rows = [[item["title"], f"{item['weight']:.2f}"] for item in intent["items"]]
            yield grid(["tied to", "weight"], rows)


def show_verified(found: Found) -> None:
    """Print which sources were checked and found undamaged."""
    rows = [[one["source"], count(one["rows"]), count(one["shards"]), _size(one["bytes"])] for one in found]
    show(grid(["whole", "rows", "shards", "size"], rows))


def show_stats(found: Found) -> None:
    """Print the sizes of the stored intents, and which share of each split they cover."""
    splits = list(found[0]["covered"])
    heads = ["source", "rows", "intents", "distinct", "numbers", "type", "shards", "size"]
    rows = [
        [
            one["source"],
            *(count(one[name]) for name in ("rows", "intents", "distinct", "dim")),
            one["dtype"],
            count(one["shards"]),
            _size(one["bytes"]),
            *(_percent(one["covered"][split]) for split in splits),
        ]
        for one in found
    ]
    show(grid([*heads, *splits], rows))


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 1e6 else f"{number / 1e3:,.1f} kB"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.0f}%"
