"""The tables of answers that `infer` writes: one per source of answers and perspective, a row per sample.

Tables are read and written in parts, so that memory does not grow with the number of samples. The rows of a
control's table are in the order in which it answered, not in that of the samples.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm4sbr import store
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.mapped import mapped
from llm4sbr.protocols import Control, Perspective

__all__ = ["COLUMNS", "CONTROL_BLOCK", "answered", "write_answers", "write_control"]

BLOCK = 20_000
"""Samples looked up in the cache at once."""

CONTROL_BLOCK = 2**16
"""Maximum number of sessions given to a control at once; a larger split is divided by taking every n-th."""

COLUMNS = {
    "key": pl.Int64,
    "answer": pl.String,
    "parsed": pl.String,
    "seconds": pl.Float64,
    "tokens": pl.Int64,
    "cached": pl.Boolean,
}


Part = tuple[Sequence[int], list[tuple[str, str, float, int, bool]]]
"""Rows of samples, and for each row: answer, parsed answer, seconds, tokens, cached."""


def answered(keys: PromptKeys, cache: AnswerCache, kept: PromptKeys) -> Sequence[int]:
    """Rows of the samples that have an answer from every perspective.

    Args:
        keys: keys of all samples.
        cache: the answer cache.
        kept: empty; filled with the keys of the answered samples.
    """

    def rows() -> Iterator[NDArray[np.int64]]:
        for begin in range(0, len(keys), BLOCK):
            block = keys.rows(begin, min(begin + BLOCK, len(keys)))
            known = cache.known({key for own in block for key in own})
            some = [row for row, own in enumerate(block) if known.issuperset(own)]
            for row in some:
                kept.append(block[row])
            yield np.array(some, np.int64) + begin

    return mapped(rows()).numpy().data


def write_answers(
    path: Path,
    perspective: Perspective,
    place: int,
    *,
    cache: AnswerCache,
    kept: PromptKeys,
    samples: Distinct,
    rows: Sequence[int],
    began: float,
) -> dict[str, int]:
    """Write an LLM's table for one perspective; returns counts of its rows.

    Args:
        path: where to write.
        perspective: the perspective; parses the answers.
        place: its position among all perspectives.
        cache: the answer cache.
        kept: keys of the answered samples.
        samples: all samples.
        rows: rows of the answered samples.
        began: start of the stage in seconds since 1970; earlier answers count as cached.
    """

    def parts() -> Iterator[Part]:
        for begin in range(0, len(rows), BLOCK):
            some = rows[begin : begin + BLOCK]
            keys = [own[place] for own in kept.rows(begin, begin + len(some))]
            before = cache.known(set(keys), before=began)
            found = cache.get_many(list(set(keys)))
            parsed = {key: perspective.parse(answer.text) for key, answer in found.items()}
            yield (
                some,
                [(found[k].text, parsed[k], found[k].seconds, found[k].tokens, k in before) for k in keys],
            )

    return _write(path, samples, parts())


def write_control(
    path: Path,
    control: Control,
    perspective: Perspective,
    *,
    samples: Distinct,
    rows: Sequence[int],
    own: Path | None,
) -> dict[str, int]:
    """Write a control's table for one perspective; returns counts of its rows.

    The control sees each split on its own, so no answer moves to another split.

    Args:
        path: where to write.
        control: the control.
        perspective: the perspective.
        samples: all samples.
        rows: rows of the answered samples, ascending.
        own: table of the run's LLM, if it has one.
    """

    def parts() -> Iterator[Part]:
        for split in samples.splits.values():
            first, last = bisect_left(rows, split.start), bisect_left(rows, split.stop)
            steps = -(-(last - first) // CONTROL_BLOCK)
            for start in range(steps):
                some = rows[first + start : last : steps]
                sessions = samples.prefixes.take(some)
                answers = _own(own, first, last, start, steps) if own else None
                texts = control.answer(sessions, perspective, answers)
                pairs = zip(some, texts, strict=True)
                yield some, [(text, text, 0.0, 0, False) for _, text in pairs]

    return _write(path, samples, parts())


def _own(path: Path, first: int, last: int, start: int, steps: int) -> list[str]:
    size = max(1, CONTROL_BLOCK // steps) * steps  # a multiple of `steps`, so every part gives the same rows
    parts = store.read_parts(path, "parsed", size, first=first, last=last)
    return [text for part in parts for text in part.gather_every(steps, start)]


def _write(path: Path, samples: Distinct, parts: Iterator[Part]) -> dict[str, int]:
    """Write a table and count its rows meanwhile, since counting later would need all texts in memory."""
    found = dict.fromkeys(("answers", "distinct", "empty", "refused", "cached"), 0)

    def frames(seen: PromptKeys) -> Iterator[pl.DataFrame]:
        for rows, values in parts:
            for answer, parsed, _, _, cached in values:
                seen.append([sha256(parsed.encode(errors="surrogatepass")).digest()])
                found["answers"] += 1
                found["empty"] += not parsed
                found["refused"] += bool(answer and not parsed)
                found["cached"] += cached
            columns = {name: kind for name, kind in COLUMNS.items() if name != "key"}
            keys = pl.Series("key", samples.keys.numpy()[np.asarray(rows)], pl.Int64)
            yield pl.DataFrame(values, schema=columns, orient="row").with_columns(keys).select(list(COLUMNS))

    with PromptKeys(1) as seen:
        store.write_table_parts(path, COLUMNS, frames(seen))
        found["distinct"] = sum(map(len, seen.distinct()))
    return found
