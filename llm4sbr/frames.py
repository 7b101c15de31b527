"""Results as data frames of polars or pandas, and as the tables that notebooks show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm4sbr.errors import ModelUnavailableError

if TYPE_CHECKING:
    import polars as pl

Columns = Mapping[str, Sequence[Any]]
"""Name of a column -> its values, one per row."""


def to_polars(columns: Columns) -> pl.DataFrame:
    """A data frame of polars; `ModelUnavailableError` where polars is not installed."""
    found: pl.DataFrame = _package("polars").DataFrame(dict(columns), strict=False)
    return found


def to_pandas(columns: Columns) -> Any:
    """A data frame of pandas; `ModelUnavailableError` where pandas is not installed."""
    return _package("pandas").DataFrame({name: list(values) for name, values in columns.items()})


def to_html(columns: Columns, caption: str = "", notes: Iterable[str] = ()) -> str:
    """A table; every text is escaped, since titles are somebody else's."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>"
        for row in zip(*columns.values(), strict=True)
    )
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<table>{told}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{below}"


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, in the order in which names first come; what a row has not is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _cell(value: object) -> str:
    if value is None:
        return ""
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ModelUnavailableError(f"{name} is not installed; run pip install {name}") from None
