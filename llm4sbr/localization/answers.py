"""Reads the answers of a run for the stage `localize`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from llm4sbr import stamps, store
from llm4sbr.errors import StoreError
from llm4sbr.freshness import LLM
from llm4sbr.protocols import Unit


def sources_of(infer: Path) -> list[str]:
    """Sources of answers that were asked for last, the LLM first; without a record all that exist."""
    if (infer / "infer.json").exists():
        return list(store.read_json(infer / "infer.json")["sources"])
    found = [path.name for path in infer.iterdir() if path.is_dir()] if infer.exists() else []
    return sorted(found, key=lambda name: (name != LLM, name))


def unit_of(infer: Path) -> Unit:
    """What the answers are about."""
    path = infer / "infer.json"
    unit: Unit = store.read_json(path).get("unit", "session") if path.exists() else "session"
    return unit


def fingerprint_of(folder: Path) -> str:
    """Fingerprint of a source's answers, "" if it is unknown."""
    stamp = stamps.read_stamp(folder)
    return stamp.fingerprint if stamp else ""


def answers_of(folder: Path, names: Sequence[str]) -> pl.DataFrame:
    """Parsed answers: `key` ascending, and a column per perspective, "" for none."""
    table = pl.DataFrame({"key": pl.Series([], dtype=pl.Int64)})
    for name in names:
        path = folder / f"{name}.parquet"
        part = store.read_table(path, ["key", "parsed"]).rename({"parsed": name})
        if part["key"].n_unique() != len(part):
            raise StoreError(f"{path}: a sample has two answers; delete {folder.parent} and run infer again")
        table = table.join(part, on="key", how="full", coalesce=True)
    return table.with_columns(pl.col(names).fill_null("")).sort("key")


def distinct_lines(titles: Sequence[str], folders: Sequence[Path], names: Sequence[str]) -> int:
    """Number of lines of text to encode; keeps one source's tables in memory at a time."""
    texts = pl.Series(titles)
    for folder in folders:
        table = answers_of(folder, names)
        texts = pl.concat([texts, *(table[name].rename("") for name in names)]).unique()
    return texts.str.split("\n").list.explode().n_unique()
