"""Builds the catalogue: the items of a run with their titles and attributes."""

from __future__ import annotations

import polars as pl

from llm4sbr.protocols import Catalogue

_BREAKS = r"[\p{Cc}\p{Zl}\p{Zp}\s]+"
"""Control characters, line and paragraph separators, runs of space: all one space in a title."""


def build(keys: pl.Series, items: pl.DataFrame) -> tuple[Catalogue, dict[str, int]]:
    """The catalogue of the items `keys`, in the order of the items table, those it lacks at the end.

    Args:
        keys: str, the items that occur in sessions, each once.
        items: columns `item`, `title` and attributes, all text; the first row of an item counts.

    Returns:
        The catalogue, and counts of what had to be mended: `items not in the items table`, `items without
        a title` (both get their key as title), `repeated rows in the items table`.
    """
    unique = items.unique("item", keep="first", maintain_order=True)
    wanted = pl.DataFrame({"item": keys})
    known = unique.join(wanted, on="item", how="semi", maintain_order="left")
    missing = wanted.join(unique, on="item", how="anti", maintain_order="left").sort("item")
    table = pl.concat([known, missing], how="diagonal").with_columns(
        pl.exclude("item").str.replace_all(_BREAKS, " ").str.strip_chars().fill_null("")
    )
    unknown = missing.height if items.height else 0  # where there is no table, nothing is missing in it
    counts = {
        "items not in the items table": unknown,
        "items without a title": int((table["title"] == "").sum()) - unknown,
        "repeated rows in the items table": items.height - unique.height,
    }
    table = table.with_columns(pl.when(pl.col("title") == "").then("item").otherwise("title").alias("title"))
    names = [name for name in table.columns if name not in ("item", "title")]
    attributes = {name: table[name].to_list() for name in names if (table[name] != "").any()}
    return Catalogue(table["item"].to_list(), table["title"].to_list(), attributes), counts
