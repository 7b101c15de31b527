"""Recorded answers: which row answers which sample, what is counted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.errors import DataError
from llm4sbr.llms.recorded import Recorded
from llm4sbr.protocols import Item

A, B, C = (Item(i, key, f"title {key}") for i, key in enumerate("abc", 1))
PREFIXES = [[A], [A, B], [C], [B, C]]
SESSIONS = ["s1", "s1", "s2", "s3"]

CSV = """prefix,session,item,perspective,text
"[""a"", ""b""]",,,short,for the prefix
,s1,,short,for the session
,,c,,for the item
,s2,,long,for s2
"""


def _match(table: Recorded, names: tuple[str, ...] = ("long", "short")) -> tuple[list[int], int]:
    return tuple(table.match(PREFIXES, SESSIONS.__getitem__, names))  # type: ignore[return-value]


def _said(table: Recorded, name: str) -> list[str]:
    return table.of(name).answer(PREFIXES, None, None)  # type: ignore[arg-type]


def test_the_most_specific_row_answers_and_an_empty_perspective_means_all(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(CSV)
    table = Recorded(str(path))
    assert _match(table) == ([0, 1, 2, 3], 0)
    assert _said(table, "short") == ["for the session", "for the prefix", "for the item", "for the item"]
    assert _said(table, "long") == ["", "", "for s2", "for the item"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_lists_need_no_json_text_in_formats_that_have_lists(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"answers.{ending}"
    rows = [{"prefix": ["b", "c"], "text": "lamp"}, {"prefix": ["c", "c"], "text": "of no sample"}]
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pl.DataFrame(rows).write_parquet(path)
    table = Recorded(str(path))
    assert _match(table) == ([3], 1)
    assert _said(table, "long") == ["", "", "", "lamp"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("item,answer\na,x\n", "its columns are answer, item"),
        ("text\nx\n", "its columns are text"),
        ("item,text\na,x\nb,y\na,z\n", "answers.csv:4: answers the same as row 2"),
        ("item,session,text\na,s1,x\n", "says by session and item"),
        ("item,text\n,x\n", "says by none"),
        ("prefix,text\na b,x\n", "prefix: expected a list of item keys"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_its_row(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"answers\.csv") as caught:
        Recorded(str(path))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_perspectives_and_tables_about_nothing_here_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("item,perspective,text\na,mood,x\n")
    with pytest.raises(DataError, match=r"perspective 'mood' is not one of this run's \(long, short\)"):
        _match(Recorded(str(path)))
    path.write_text("item,text\nz,x\n")
    with pytest.raises(DataError, match="none of its 1 texts is about a sample"):
        _match(Recorded(str(path)))
    with pytest.raises(DataError, match=r"come as \.csv"):
        Recorded(str(tmp_path / "answers.xlsx"))
    with pytest.raises(DataError, match="No such file"):
        Recorded(str(tmp_path / "none.csv"))
