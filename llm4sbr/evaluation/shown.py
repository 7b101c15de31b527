"""The texts of the answers behind the intents of a few samples, to be shown."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl
from torch import Tensor

from llm4sbr import store
from llm4sbr.evaluation.ranking import SampleIntents
from llm4sbr.protocols import Catalogue


class ShownAnswer(NamedTuple):
    """An answer from one perspective, and the items it was tied to."""

    perspective: str
    answer: str
    """The LLM's answer; "" if it was not kept."""
    parsed: str
    """The parsed answer; "" if the answer was unusable."""
    tied: list[tuple[str, float]]
    """Titles and weights, best first."""


def shown_answers(
    run: Path, intents: SampleIntents, index: Tensor, catalogue: Catalogue
) -> list[list[ShownAnswer]]:
    """The answers of some samples by perspective; texts are "" where `infer` has not kept them.

    Args:
        run: has `infer` with the answers of the source that `intents` are from.
        intents: intents of M samples.
        index: int64 (B,), those of the M samples to show; each has a row.
        catalogue: its titles are shown.
    """
    rows = intents.rows[index]
    keys = intents.store.keys[rows].tolist()
    names = intents.store.perspectives
    source = run / "infer" / intents.store.folder.name
    by_key = [_answers(source / f"{name}.parquet", keys) for name in names]
    items, weights = (part.tolist() for part in intents.store.located(rows))
    return [
        [
            ShownAnswer(name, *found.get(key, ("", "")), _tied(items[place][p], weights[place][p], catalogue))
            for p, (name, found) in enumerate(zip(names, by_key, strict=True))
        ]
        for place, key in enumerate(keys)
    ]


def _tied(ids: list[int], weights: list[float], catalogue: Catalogue) -> list[tuple[str, float]]:
    return [(catalogue.titles[id - 1], weight) for id, weight in zip(ids, weights, strict=True) if id]


def _answers(path: Path, keys: list[int]) -> dict[int, tuple[str, str]]:
    """Key -> raw and parsed answer; empty if the file is missing, since intents do not need it."""
    if not path.exists():
        return {}
    table = store.read_table(path, ["key", "answer", "parsed"]).filter(pl.col("key").is_in(keys))
    return {key: (answer, parsed) for key, answer, parsed in table.iter_rows()}
