"""What `llm4sbr export` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm4sbr.report.formats import count
from llm4sbr.report.terminal.layout import grid, show

if TYPE_CHECKING:
    from pathlib import Path


def show_artefacts(folder: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the artefacts below `folder`, by name, and how each was verified."""
    rows = [_row(folder / name, record) for name, record in found.items() if "verified" in record]
    head = ["artefact", "intents", "precision", "K", "verified on", "lists that agree", "largest difference"]
    show(grid(head, rows))


def _row(folder: Path, record: Mapping[str, Any]) -> tuple[str, ...]:
    verified = record["verified"]
    agree = f"{count(verified['lists_that_agree'])} of {count(verified['lists'])}"
    difference = f"{verified['max_difference']:.1e}"
    named = (str(folder), record["variant"], record["precision"], str(record["k"]))
    return (*named, verified["provider"], agree, difference)
