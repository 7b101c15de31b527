"""Builds the catalogue: the items of a run with their titles and attributes."""

from __future__ import annotations

import polars as pl

from llm4sbr.protocols import Catalogue

_BREAKS = r"[\p{Cc}\p{Zl}\p{Zp}\s]+"
"""Control characters, line separators and spaces; titles get one space for each sequence of them."""


def build(keys: pl.Series, items: pl.DataFrame) -> tuple[Catalogue, dict[str, int]]:
    """Build the catalogue, in the order of the items table; items that are not in the table come last.

    Args:
        keys: str, the keys of the items that occur in sessions, each once.
        items: columns `item`, `title` and attributes, all text. If an item has several rows, the first is
            used.

    Returns:
        The catalogue, and counts of what was corrected: `items not in the items table`, `items without
        a title` (both get their key as title), `repeated rows in the items table`.
    """
    unique = items.unique("item", keep="first", maintain_order=True)
    wanted = pl.DataFrame({"item": keys})
    known = unique.join(wanted, on="item", how="semi", maintain_order="left")
    missing = wanted.join(unique, on="item", how="anti", maintain_order="left").sort("item")
    table = pl.concat([known, missing], how="diagonal").with_columns(
        pl.exclude("item").str.replace_all(_BREAKS, " ").str.strip_chars().fill_null("")
    )
    unknown = missing.height if items.height else 0  # without a table, no item counts as missing from it
    counts = {
        "items not in the items table": unknown,
        "items without a title": int((table["title"] == "").sum()) - unknown,
        "repeated rows in the items table": items.height - unique.height,
    }
    table = table.with_columns(pl.when(pl.col("title") == "").then("item").otherwise("title").alias("title"))
    names = [name for name in table.columns if name not in ("item", "title")]
    attributes = {name: table[name].to_list() for name in names if (table[name] != "").any()}
    return Catalogue(table["item"].to_list(), table["title"].to_list(), attributes), counts
