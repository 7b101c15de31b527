"""A stage's result in Python: the content of its JSON summary, which notebooks show as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm4sbr import frames

if TYPE_CHECKING:
    import polars as pl


class Summary(dict[str, Any]):
    """The content of a stage's JSON summary, by its own keys; and a table of it.

    The table of `evaluate` has a row per model and baseline: `name`, `label`, `kind`, and of every metric its
    mean over seeds (a share from 0 to 1), `std`, `gain` over the plain backbone and `p`. That of `train` has
    a row per model with its facts; those of the other stages have a row per number or text.
    """

    def frame(self) -> pl.DataFrame:
        """The table as a data frame of polars."""
        return frames.to_polars(self._columns())

    def to_pandas(self) -> Any:
        """The table as a data frame of pandas."""
        return frames.to_pandas(self._columns())

    def _repr_html_(self) -> str:
        columns = self._columns()
        if "rows" in self:  # the longest list; the others are in the frame
            last = f"@{max(self['k'])}"
            columns = {
                name: values
                for name, values in columns.items()
                if name == "label" or name.endswith((last, f"{last} gain", f"{last} p"))
            }
        return frames.to_html(columns, notes=[self["verdict"]] if self.get("verdict") else [])

    def _columns(self) -> dict[str, list[Any]]:
        if "rows" in self:
            return frames.columns_of([_row(one) for one in self["rows"]])
        if "models" in self:
            return frames.columns_of([_plain(one.get("facts", one)) for one in self["models"]])
        plain = _plain(self)
        return {"name": list(plain), "value": [str(value) for value in plain.values()]}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: row[key] for key in ("name", "label", "kind")}
    for metric, values in row["metrics"].items():
        found[metric], found[f"{metric} std"] = values["mean"], values["std"]
        for key in ("gain", "p"):
            found[f"{metric} {key}"] = (row.get(key) or {}).get(metric)
    return found


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if isinstance(value, str | int | float)}
