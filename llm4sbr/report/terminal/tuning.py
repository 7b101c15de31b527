"""What `llm4sbr tune` prints: the best trials as a terminal table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from llm4sbr.report.terminal.layout import drawn, show
from llm4sbr.report.tuning import finding, importances, tuning_table


def show_tuning(content: Mapping[str, Any]) -> None:
    """Print the table of a search on standard output."""
    shares = importances(content)
    parts = [Text(finding(content)), *drawn(tuning_table(content)), *([Text(shares)] if shares else [])]
    show(*parts)
