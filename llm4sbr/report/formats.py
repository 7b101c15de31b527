"""Formats numbers, the same way for the terminal and the page."""

from __future__ import annotations

from datetime import UTC, datetime

MISSING = "-"
"""Shown for a missing value."""


def count(value: float | None) -> str:
    """`1,234`."""
    return MISSING if value is None else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """`83%`."""
    return MISSING if share is None else f"{share:.0%}"


def metric(share: float) -> str:
    """`16.30`: a metric in percent."""
    return f"{100 * share:.2f}"


def size(bytes_: float | None) -> str:
    """`1.31 GB`, `120 MB`."""
    if bytes_ is None:
        return MISSING
    return f"{bytes_ / 1e9:.2f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f} MB"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `12.5 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def day(timestamp: float) -> str:
    """`2026-11-29`, in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).date().isoformat()


def p_value(p: float) -> str:
    """`p = 0.03`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
