"""Reader `jsonl` on files with a click per line, and names of columns as public logs have them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from llm4sbr import registry
from llm4sbr.data.readers.jsonl import JsonLines
from llm4sbr.data.readers.tables import Csv
from llm4sbr.errors import DataError, RegistryError
from llm4sbr.protocols import RawData


def written(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def clicks(raw: RawData) -> list[tuple[object, ...]]:
    return raw.interactions.select("user", "session", "item", "time").rows()


def test_google_analytics(tmp_path: Path) -> None:
    times = [("7.1", 1588321187000001), ("7.1", 1588321190000000), ("8.1", 1588321200000000), ("8.1", "soon")]
    others = {"ga_session_id": 5, "event_date": "20200501", "items_count": 1}
    rows = [
        {"event_timestamp": time, "user_pseudo_id": user, "item_id": item, **others}
        for (user, time), item in zip(times, "ABAA", strict=True)
    ]
    raw = JsonLines(written(tmp_path / "ga4.jsonl", rows), titles=False).read()
    assert clicks(raw) == [
        ("7.1", "5 of 7.1", "A", 1588321187.000001),
        ("7.1", "5 of 7.1", "B", 1588321190.0),
        ("8.1", "5 of 8.1", "A", 1588321200.0),
    ]
    used = "user user_pseudo_id, session ga_session_id, item item_id, time event_timestamp"
    assert raw.notes[0] == f"columns of ga4.jsonl: {used}; not used: event_date, items_count"
    assert raw.rejected == [f"{tmp_path}/ga4.jsonl:4: event_timestamp: cannot read 'soon'"]


def test_titles_in_the_click_beside_it_or_none(tmp_path: Path) -> None:
    rows = [
        {"userId": "u", "time": 10, "id": "n1", "title": "One", "kind": ["a", "b"]},
        {"userId": "u", "time": 12, "id": "n2", "title": "Two"},
    ]
    file = written(tmp_path / "news.jsonl", rows)
    with pytest.raises(DataError, match=r"no column for the item; .*data.options.item=COLUMN"):
        JsonLines(file).read()
    raw = JsonLines(file, item="id", attributes=["kind"]).read()
    assert raw.items.sort("item").rows() == [("n1", "One", "a b"), ("n2", "Two", None)]
    written(tmp_path / "items.jsonl", [{"item_id": "n1", "title": "Other"}])
    assert JsonLines(file, item="id").read().items.rows() == [("n1", "Other")]
    (tmp_path / "items.jsonl").unlink()
    (tmp_path / "items.csv").write_text("item_id,title\nn2,Table\n")
    assert JsonLines(file, item="id").read().items.rows() == [("n2", "Table")]


def test_a_folder_has_interactions_and_only_some_may_be_clicks(tmp_path: Path) -> None:
    rows = [
        {"user": 1, "item": 3, "date": "2020-05-01T00:00:00Z", "event": e} for e in ("view", "buy", "view")
    ]
    with gzip.open(tmp_path / "interactions.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in [*rows[:2], {**rows[2], "item": 4}])
    raw = JsonLines(tmp_path, titles=False, only="event=view").read()
    assert raw.interactions["item"].to_list() == ["3", "4"]
    assert raw.interactions["time"].to_list() == [1588291200.0] * 2


def test_a_column_that_comes_late_and_lines_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"user": 1, "item": "a", "ts": 1600000000}\nnothing\n{"user": 2, "ts": 1600000001}\n')
    raw = JsonLines(file, titles=False).read()
    assert raw.interactions["item"].to_list() == ["a"]
    assert raw.rejected[0] == f"{file}:2: not a JSON object: nothing"
    assert f"{file}:3: item" in raw.rejected[1]


def test_a_session_per_line_stays_one(tmp_path: Path) -> None:
    file = written(tmp_path / "s.jsonl", [{"session": "a", "items": ["x", "y"], "time": 1600000000}])
    assert JsonLines(file, titles=False).read().interactions["item"].to_list() == ["x", "y"]
    file = written(tmp_path / "t.jsonl", [{"items": ["x", "y"], "time": 1600000000}])
    with pytest.raises(DataError, match="session: missing"):
        JsonLines(file, titles=False).read()


@pytest.mark.parametrize(
    ("header", "roles"),
    [
        ("session_id_hash,event_type,product_sku_hash,server_timestamp_epoch_ms,hashed_url", (0, 2, 3)),
        ("InvoiceNo,StockCode,Description,InvoiceDate", (0, 1, 3)),
    ],
)
def test_names_of_public_logs(tmp_path: Path, header: str, roles: tuple[int, ...]) -> None:
    names = header.split(",")
    row = ["7"] * len(names)
    row[roles[2]] = "1600000000000"
    (tmp_path / "log.csv").write_text(f"{header}\n{','.join(row)}\n")
    raw = Csv(tmp_path / "log.csv", titles=False).read()
    used = ", ".join(
        f"{role} {names[at]}" for role, at in zip(("session", "item", "time"), roles, strict=True)
    )
    assert raw.notes[0].startswith(f"columns of log.csv: {used}; not used: ")
    assert raw.interactions.select("session", "item", "time").rows() == [("7", "7", 1600000000.0)]


@pytest.mark.parametrize("line", ["user_1\t2020-05-01T08:19:47Z\tart2", "a,2020-05-01 10:00:00,b"])
def test_a_date_in_the_first_line_is_no_column(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.csv").write_text(f"{line}\n{line}\n")
    with pytest.raises(DataError, match=r"a file without a header: --set data.options.columns="):
        Csv(tmp_path / "log.csv", titles=False).read()


def test_sessions_of_items_in_lines_of_text(tmp_path: Path) -> None:
    (tmp_path / "seq.txt").write_text("1 20 30 20\n2 30 10\n")
    with pytest.raises(DataError, match=r"lists the items of a session, write rows as .* --dataset jsonl"):
        Csv(tmp_path / "seq.txt", titles=False).read()


def test_a_list_that_was_given_as_a_text_says_how_it_is_written() -> None:
    with pytest.raises(
        RegistryError, match=r'columns = \'user, time\': a list is expected, written as \["user", "time"\]'
    ):
        registry.create("readers", "csv", columns="user, time")


def test_values_of_a_table_are_texts(tmp_path: Path) -> None:
    from llm4sbr.data.readers import lines

    file = written(tmp_path / "a.jsonl", [{"a": 1, "b": [1, "x"]}, {"c": None, "a": True}])
    expected = {"(row)": [1, 2], "a": ["1", "True"], "b": ["1 x", None], "c": [None, None]}
    assert lines.table(file, None, []).to_dict(as_series=False) == expected
    assert lines.table(file, ["a", "d"], []).schema == {"(row)": pl.Int64, "a": pl.String, "d": pl.String}
