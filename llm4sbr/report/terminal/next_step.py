"""The next command to run, shown after a stage."""

from __future__ import annotations

import shlex
from pathlib import Path

from llm4sbr import stamps, store
from llm4sbr.data.prepared import ITEMS
from llm4sbr.errors import StoreError


def next_command(run: Path, stage: str) -> str:
    """The command of the next stage; after the last stage, a `recommend` for an item of the catalogue.

    Args:
        run: the run directory, as the user wrote it.
        stage: the name of the finished stage.
    """
    after = stamps.STAGE_NAMES[stamps.STAGE_NAMES.index(stage) + 1 :]
    if after:
        return f"llm4sbr {after[0]} {shlex.quote(str(run))}"
    return f"llm4sbr recommend {shlex.quote(str(run))} --session {shlex.quote(_item(run))}"


def _item(run: Path) -> str:
    """A title of the catalogue; the item's key if the title has a `|`, which separates items."""
    try:
        item = store.read_table(run / "prepare" / ITEMS, ["key", "title"]).row(0, named=True)
    except (StoreError, IndexError):
        return "TITLE"
    title = str(item["title"])
    return str(item["key"]) if "|" in title or not title.isprintable() else title
