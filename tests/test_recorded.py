"""Recorded answers: which row answers which sample, what is counted, and what is refused."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
import torch
from rich.console import Console

from llm4sbr.config import build, nest
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.prepared import load
from llm4sbr.errors import DataError
from llm4sbr.llms.recorded import Recorded
from llm4sbr.perspectives import Long, Short
from llm4sbr.progress import Progress
from llm4sbr.protocols import Item
from llm4sbr.stages.infer import infer
from llm4sbr.testing.toy_run import toy_run

A, B, C = (Item(i, key, f"title {key}") for i, key in enumerate("abc", 1))
PREFIXES = [[A], [A, B], [C], [B, C]]
VIEWS = {"long": Long(), "short": Short()}
SESSIONS = ["s1", "s1", "s2", "s3"]

CSV = """prefix,session,item,perspective,text
"[""a"", ""b""]",,,short,for the prefix
,s1,,short,for the session
,,c,,for the item
,s2,,long,for s2
"""


def _match(table: Recorded, names: tuple[str, ...] = ("long", "short")) -> tuple[list[int], int, str]:
    return tuple(table.match(PREFIXES, SESSIONS.__getitem__, {name: VIEWS[name] for name in names}))  # type: ignore[return-value]


def _said(table: Recorded, name: str) -> list[str]:
    return table.answer(PREFIXES, VIEWS[name], None)


def test_the_most_specific_row_answers_and_an_empty_perspective_means_all(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(CSV)
    table = Recorded(str(path))
    assert _match(table) == ([0, 1, 2, 3], 0, "it has none")
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
    assert _match(table) == ([3], 1, """the first is about prefix '["c", "c"]'""")
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
    with pytest.raises(
        DataError, match=r"no text in it is about a sample of this run \(the first is about item '"
    ):
        _match(Recorded(str(path)))
    with pytest.raises(DataError, match=r"come as \.csv"):
        Recorded(str(tmp_path / "answers.xlsx"))
    with pytest.raises(DataError, match="No such file"):
        Recorded(str(tmp_path / "none.csv"))


def test_a_run_takes_them_as_its_llms_answers(tmp_path: Path) -> None:
    """Only the samples that the table answers are covered, and by a session's id all of its prefixes are."""
    run = toy_run(tmp_path / "run", sources=())
    prepared = load(run / "prepare")
    table = pl.read_parquet(run / "prepare" / "sessions.parquet")
    path = tmp_path / "answers.csv"
    key = prepared.catalogue.keys[0]
    path.write_text(f"session,item,text\nu7,,Red Lamp\n,{key},Oak Chair\nnobody,,x\n")
    settings = {"infer.llm": f"recorded:{path}", "infer.perspectives": ["short"], "infer.controls": []}
    (tmp_path / "out").mkdir()
    said = StringIO()
    infer(run, tmp_path / "out", build(nest(settings)), Progress(console=Console(file=said, width=500)))
    assert "1 of its 3 texts fits no sample, the first is about " in said.getvalue()
    assert "; there is no text about the others" in said.getvalue()
    found = pl.read_parquet(tmp_path / "out" / "llm" / "short.parquet")
    samples = Distinct.of(prepared)
    prefixes = [tuple(item.id for item in samples.prefixes[row]) for row in range(len(samples.keys))]
    session = table["items"][7].to_list()
    assert table["session"][7] == "u7"
    own = {tuple(session[:end]) for end in range(1, len(session))}
    owner = torch.searchsorted(prepared.sessions.offsets, samples.end, right=True) - 1
    first = {prefix for row, prefix in enumerate(prefixes) if int(owner[row]) == 7}
    expected = {
        int(samples.keys[row]): "Red Lamp" if prefix in first else "Oak Chair"
        for row, prefix in enumerate(prefixes)
        if prefix in first or prefix[-1] == 1
    }
    assert first <= own
    assert first
    assert dict(zip(found["key"], found["parsed"], strict=True)) == expected
    assert 0 < len(expected) < len(prefixes)


def test_perspectives_that_ask_about_items_take_rows_about_items_only(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run", sources=())
    key = load(run / "prepare").catalogue.keys[0]
    path = tmp_path / "answers.csv"
    path.write_text(f"session,item,text\nu7,,Red Lamp\n,{key},Oak Chair\n")
    settings = {"infer.llm": f"recorded:{path}", "infer.perspectives": ["short"], "infer.controls": []}
    (tmp_path / "out").mkdir()
    said = StringIO()
    config = build(nest(settings | {"infer.wording": "natural"}))
    infer(run, tmp_path / "out", config, Progress(console=Console(file=said, width=500)))
    found = pl.read_parquet(tmp_path / "out" / "llm" / "short.parquet")
    assert found["parsed"].to_list() == ["Oak Chair"]
    assert "; these perspectives ask about items" in said.getvalue()
