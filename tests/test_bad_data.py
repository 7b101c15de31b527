"""What the user may get wrong: one clear line each, with file and row, and nothing half-written."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from llm4sbr import config
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.data.readers.tables import Csv
from llm4sbr.errors import DataError
from llm4sbr.progress import Progress
from llm4sbr.stages.prepare import prepare
from llm4sbr.testing.toy import toy_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return toy_log(tmp_path / "log")


def run(log: Path, reader: str = "csv", **data: object) -> tuple[Prepared, str]:
    """The prepared data and what was said on the way."""
    out = log.parent / "out"
    out.mkdir(exist_ok=True)
    stream = io.StringIO()
    settings = {"data": {"reader": reader, "path": str(log), **data}}
    prepare(log.parent, out, config.build(settings), Progress(console=Console(file=stream, width=1000)))
    return load(out), stream.getvalue()


def refused(log: Path, reader: str = "csv", **data: object) -> str:
    """The message of the error, after checking that it is one line and that nothing was written."""
    with pytest.raises(DataError) as caught:
        run(log, reader, **data)
    assert list((log.parent / "out").iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path: Path, row: int, text: str) -> None:
    """Replace one row (1-based, the header is row 1)."""
    lines = path.read_text().splitlines()
    lines[row - 1] = text
    path.write_text("\n".join(lines) + "\n")


def test_missing_folder_and_files(log):
    (log / "items.csv").unlink()
    assert f"{log}: no items.csv or items.csv.gz (item_id, title" in refused(log)
    (log / "interactions.csv").unlink()
    assert f"{log}: no interactions.csv or interactions.csv.gz" in refused(log)
    assert "gone: no such folder" in refused(log.parent / "gone")
    assert "needs --data" in refused_without_path(log)


def refused_without_path(log: Path) -> str:
    with pytest.raises(DataError) as caught:
        prepare(log, log, config.build({"data": {"reader": "csv"}}), Progress(quiet=True))
    return str(caught.value)


@pytest.mark.parametrize("name", ["interactions.csv", "items.csv"])
def test_empty_file(log, name):
    (log / name).write_bytes(b"")
    assert f"{name}" in refused(log)


def test_header_only(log):
    (log / "interactions.csv").write_text("user_id,item_id,timestamp\n")
    assert "interactions.csv: none of its 0 rows can be read" in refused(log)


def test_truncated_gzip_names_the_row(log):
    plain = log / "interactions.csv"
    packed = gzip.compress(plain.read_bytes())
    (log / "interactions.csv.gz").write_bytes(packed[: len(packed) // 2])
    plain.unlink()
    assert "the gzip file is truncated or damaged here" in refused(log)


def test_wrong_encoding_names_the_row_and_the_option(log):
    items = log / "items.csv"
    items.write_bytes(items.read_bytes().replace(b"Blue Chair", "Chaise dorée".encode("latin-1"), 1))
    message = refused(log)
    assert "items.csv:3: the text is not utf-8" in message
    assert "--set data.options.encoding=latin-1" in message
    prepared, _ = run(log, options={"encoding": "latin-1"})
    assert "Chaise dorée (1991)" in prepared.catalogue.titles


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_missing_column_lists_what_there_is(log, column):
    path = log / "interactions.csv"
    path.write_text(path.read_text().replace(column, "odd", 1))
    message = refused(log)
    assert "interactions.csv:1: no column for the" in message
    assert "odd" in message.partition("found: ")[2]
    option = {"user_id": "user", "item_id": "item", "timestamp": "time"}[column]
    assert f"--set data.options.{option}=COLUMN" in message
    assert run(log, options={option: "odd"})[0].stats["rows"] == 420


def test_a_column_named_that_does_not_exist(log):
    assert "no column 'when' (data.options.time); found: user_id" in refused(log, options={"time": "when"})


def test_rows_that_cannot_be_read_are_counted_and_shown(log):
    path = log / "interactions.csv"
    for row, text in enumerate(
        ["u1,,5", "u1,i01,soon", ",i01,5", "u1,i01,-7", "u1,i01", "u1,i01,nan", "a,b,5,9"], 2
    ):
        change(path, row, text)
    prepared, said = run(log)
    assert "7 rows cannot be read and are left out, the first ones:" in said
    assert said.count(f"{path}:") == 5
    assert prepared.stats["rejected"] == 7
    assert f"{path}:2: item_id: missing" in said
    assert f"{path}:3: timestamp: cannot read 'soon'" in said
    assert f"{path}:4: user_id: missing" in said
    assert f"{path}:5: timestamp: negative time -7" in said
    assert f"{path}:8: 4 fields where the header has 3" in said
    message = refused_strict(log)
    assert message.startswith(f"{path}:")
    assert "7 rows cannot be read" in message


def refused_strict(log: Path) -> str:
    for file in (log.parent / "out").iterdir():
        file.unlink()
    return refused(log, strict=True)


def test_no_row_can_be_read(log):
    path = log / "interactions.csv"
    path.write_text("user_id,item_id,timestamp\nu,i,soon\nu,i,later\n")
    assert f"none of its 2 rows can be read; the first: {path}:2: timestamp: cannot read 'soon'" in refused(
        log
    )


def test_a_quote_that_never_closes(log):
    change(log / "items.csv", 3, 'i02,"Blue Chair')
    assert "items.csv" in refused(log)


def test_repeated_clicks_are_dropped_and_counted(log):
    path = log / "interactions.csv"
    second = path.read_text().splitlines()[1]
    path.write_text(path.read_text() + f"{second}\n{second}\n")
    prepared, said = run(log)
    assert prepared.stats["dropped"]["repeated clicks"] == 2
    assert "2 repeated clicks" in said
    assert prepared.stats["clicks"] == 420


def test_titles_are_mended_and_counted(log):
    table = pl.read_csv(log / "items.csv")
    titles = ["", "Two\nlines", "Tab\tand\x07bell", "Para\u2029graph", *table["title"][4:]]
    table = table.with_columns(pl.Series("title", titles))[:-1]
    pl.concat([table, table[:1].with_columns(title=pl.lit("Second title"))]).write_csv(log / "items.csv")
    prepared, said = run(log)
    assert prepared.catalogue.titles[:4] == ["i01", "Two lines", "Tab and bell", "Para graph"]
    assert dict(zip(prepared.catalogue.keys, prepared.catalogue.titles, strict=True))["i20"] == "i20"
    assert prepared.stats["mended"] == {
        "items not in the items table": 1,
        "items without a title": 1,
        "repeated rows in the items table": 1,
    }
    assert "1 items without a title" in said


def test_one_session_only(log):
    lines = (log / "interactions.csv").read_text().splitlines()
    (log / "interactions.csv").write_text("\n".join(lines[:7]))
    assert "no train sample is left (0 training sessions" in refused(log)


def test_no_session_left_after_the_filters(log):
    assert "no train sample is left" in refused(log, min_item_count=1000)
    assert "no session has 9 clicks or more (sessions: 60" in refused(log, min_length=9)
    assert "no session has 2 clicks or more" in refused(log, sessions="gap", gap_seconds=1)


def test_a_rule_or_split_that_needs_a_clock(tmp_path):
    log = toy_log(tmp_path / "log", clock=False)
    assert "data.split=temporal needs timestamps" in refused(log, split="temporal")
    assert "data.sessions=bins needs timestamps" in refused(log, sessions="bins")
    prepared, said = run(log)
    assert "the data has no clock: whole sessions are split at random" in said
    assert prepared.stats["rules"]["split"] == "random"


def test_leave_last_out_warns(log):
    assert "later than those it is tested on" in run(log, split="leave-last-out")[1]


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", None])
def test_not_parquet(log, content):
    for name in ("interactions", "items"):
        pl.read_csv(log / f"{name}.csv").write_parquet(log / f"{name}.parquet")
    path = log / "interactions.parquet"
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    assert "interactions.parquet: not a whole Parquet file" in refused(log, "parquet")


def test_a_broken_first_time_spoils_its_own_row_only(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\na,A\nb,B\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n1,a,soon\n1,b,20\n2,a,30\n")
    raw = Csv(tmp_path).read()
    assert raw.interactions["time"].to_list() == [20.0, 30.0]
    assert len(raw.rejected) == 1
    assert "interactions.csv:2: timestamp: cannot read 'soon'" in raw.rejected[0]


def test_an_items_table_of_other_ids(log: Path) -> None:
    text = (log / "items.csv").read_text().replace("\ni", "\n")
    (log / "items.csv").write_text(text)
    assert "none of the 20 items clicked is in the items table: clicks are on 'i" in refused(log)


def test_an_items_table_without_rows(log: Path) -> None:
    (log / "items.csv").write_text("item_id,title\n")
    assert "items.csv: no row with an item id in column 'item_id'" in refused(log)


def test_one_number_in_two_spellings_is_named(log: Path) -> None:
    numbers = [f"user_id,item_id,timestamp\nu{n // 7},{n % 7 + 1}.0,{n * 90_000}\n" for n in range(70)]
    (log / "interactions.csv").write_text(numbers[0] + "".join(row.partition("\n")[2] for row in numbers[1:]))
    for ids, other in ((("007", "001"), "001"), (("7", "1"), "1")):
        (log / "items.csv").write_text("item_id,title\n" + "".join(f"{one},Lamp {one}\n" for one in ids))
        message = refused(log, sessions="user", min_item_count=1)
        assert f"2 of them are in it as another text, such as '1.0' and '{other}'" in message
        assert "write ids alike in both tables" in message
    (log / "items.csv").write_text("item_id,title\n2.0,Lamp\n3,Rug\n")
    _, said = run(log, sessions="user", min_item_count=1)
    assert (
        "6 items are not in the items table; 1 of them are in it as another text, such as '3.0' and '3'"
        in said
    )


def test_what_the_items_table_has_and_lacks_is_counted(log: Path) -> None:
    table = (log / "items.csv").read_text().splitlines()
    table[0] = "item_id,title,category,price,shop"
    table[1:] = [f"{row},{'' if n < 3 else 9.5}," for n, row in enumerate(table[1:])]
    table[2] = "i02,Blue Chair,,,"
    table += ["i98,Never,Lamp,1,", "i99,Ever,Lamp,2,"]
    (log / "items.csv").write_text("\n".join(table) + "\n")
    prepared, said = run(log)
    assert prepared.stats["items_table"] == {
        "items that nobody clicked": 2,
        "items without category": 1,
        "items without price": 3,
        "items without shop": 20,
    }
    assert (
        "in the items table: 2 items that nobody clicked; 1 items without category; 3 items without" in said
    )


def test_without_titles_nothing_is_mended_but_titles(log: Path) -> None:
    (log / "items.csv").unlink()
    prepared, said = run(log, options={"titles": False})
    assert prepared.catalogue.titles == prepared.catalogue.keys
    assert "mended: 20 items without a title" in said


def test_the_form_of_dates_is_asked_for(log: Path) -> None:
    (log / "interactions.csv").write_text("user_id,item_id,timestamp\nu,i01,13.09.2020\n")
    assert (
        "cannot read '13.09.2020'; a form of date other than ISO 8601: --set data.options.time_format="
        in (refused(log))
    )


def test_only_rows_that_are_too_long(log: Path) -> None:
    (log / "interactions.csv").write_text("user_id,item_id,timestamp\nu,i01,Sun, 13 Sep\n")
    assert "no row can be read; the first: " in refused(log)
