"""Logs as the public ones are written: what a user has to type, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.data.readers.amazon import Amazon
from llm4sbr.data.readers.jsonl import JsonLines
from llm4sbr.data.readers.tables import Csv, Parquet
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

NO_TITLES = "no titles: items have only ids, useless for an LLM"


def clicks(raw: RawData) -> list[tuple[object, ...]]:
    who = "session" if "session" in raw.interactions.columns else "user"
    return raw.interactions.select(who, "item", "time").rows()


def test_retailrocket_has_no_titles(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text(
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n1433224214164,992329,view,248676,4\n"
    )
    with pytest.raises(DataError, match=r"no items.csv .* --set data.options.titles=false"):
        Csv(file).read()
    raw = Csv(file, titles=False).read()
    assert clicks(raw) == [("257597", "355908", 1433221332.117), ("992329", "248676", 1433224214.164)]
    used = (
        "columns of events.csv: user visitorid, item itemid, time timestamp; not used: event, transactionid"
    )
    assert raw.notes == [used, "events.csv: timestamps are milliseconds", NO_TITLES]
    assert raw.rejected == []
    assert raw.items.is_empty()


def test_yoochoose_has_no_header(tmp_path: Path) -> None:
    file = tmp_path / "yoochoose-clicks.dat"
    file.write_text("1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n")
    with pytest.raises(DataError, match=r"a file without a header: --set data.options.columns="):
        Csv(file, titles=False).read()
    with pytest.raises(DataError, match="4 fields, but names for 3"):
        Csv(file, titles=False, columns=["session", "time", "item"]).read()
    raw = Csv(file, titles=False, columns=["session", "time", "item", "category"]).read()
    assert clicks(raw) == [("1", "214536502", 1396867869.277), ("1", "214536500", 1396868049.868)]
    assert raw.interactions["row"].to_list() == [1, 2]


def test_diginetica_has_semicolons_dates_and_a_second_clock(tmp_path: Path) -> None:
    (tmp_path / "train-item-views.csv").write_text(
        "sessionId;userId;itemId;timeframe;eventdate\n"
        "1;;81766;526309;2016-05-09\n1;;31331;31330;2016-05-09\n1;7;32118;1031018;2016-05-09\n"
    )
    (tmp_path / "products.csv").write_text(
        "itemId;pricelog2;product.name.tokens\n81766;10;4875,776\n31331;8;1\n32118;9;2\n"
    )
    raw = Csv(
        tmp_path / "train-item-views.csv",
        items=tmp_path / "products.csv",
        order="timeframe",
        title="product.name.tokens",
    ).read()
    assert [item for _, item, _ in clicks(raw)] == ["31331", "81766", "32118"]
    assert raw.items["title"].to_list() == ["4875,776", "1", "2"]
    assert raw.interactions["user"].to_list() == ["session 1", "session 1", "7"]
    assert raw.rejected == []
    assert raw.notes == [
        "columns of train-item-views.csv: user userId, session sessionId, item itemId, time eventdate, "
        "order timeframe",
        "read as Diginetica's train-item-views.csv",
        "train-item-views.csv: 2 clicks have no userId: their session counts as their user",
    ]


def test_lastfm_has_tabs_quotes_and_titles_among_the_clicks(tmp_path: Path) -> None:
    file = tmp_path / "userid-timestamp-artid-artname-traid-traname.tsv"
    rows = [
        'user_000001\t2009-05-04T23:08:57Z\tf1b1\tDeep, "Dish"\tt1\t"The Ring" 12\n',
        "user_000001\t2009-05-04T13:54:10Z\ta7f7\t坂本龍一\tt2\tComposition (Live)\n",
        "user_000002\t2009-05-04T13:54:10Z\ta7f7\t坂本龍一\tt2\tComposition (Live)\n",
    ]
    file.write_text("".join(rows))
    names = ["user", "time", "artid", "artist", "item", "title"]
    with pytest.raises(DataError, match=r"--set data\.options\.quote=none"):
        Csv(file, columns=names).read()
    raw = Csv(file, columns=names, quote="none", attributes=["artist"]).read()
    assert [who for who, _, _ in clicks(raw)] == ["user_000001", "user_000001", "user_000002"]
    assert raw.items.rows() == [
        ("t1", '"The Ring" 12', 'Deep, "Dish"'),
        ("t2", "Composition (Live)", "坂本龍一"),
    ]


def test_otto_has_events(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    events = [
        {"aid": 1517085, "ts": 1659304800025, "type": "clicks"},
        {"aid": 1563459, "ts": 1659304904511, "type": "carts"},
    ]
    file.write_text(json.dumps({"session": 0, "events": events}) + "\n" + '{"session": 1, "events": [3]}\n')
    with pytest.raises(DataError, match=r"--set data.options.titles=false"):
        JsonLines(file).read()
    raw = JsonLines(file, titles=False).read()
    assert clicks(raw) == [("0", "1517085", 1659304800.025), ("0", "1563459", 1659304904.511)]
    assert raw.rejected == [f"{file}:2: items: not a list of at least one item"]


def test_amazon_of_2023(tmp_path: Path) -> None:
    review = {
        "title": "Lovely",
        "asin": "B1X",
        "parent_asin": "B1",
        "user_id": "A",
        "timestamp": 1588687728923,
    }
    (tmp_path / "All_Beauty.jsonl").write_text(
        json.dumps(review) + "\n" + json.dumps({**review, "parent_asin": "B2"})
    )
    meta = [
        {"main_category": "All Beauty", "title": "Caf&eacute;", "price": "from 3.99", "store": "Howard"},
        {
            "main_category": "All Beauty",
            "title": None,
            "price": None,
            "store": None,
            "categories": ["A", "B"],
        },
    ]
    lines = [json.dumps({**one, "parent_asin": f"B{n}"}) for n, one in enumerate(meta, start=1)]
    (tmp_path / "meta_All_Beauty.jsonl").write_text("\n".join(lines))
    raw = Amazon(tmp_path).read()
    assert clicks(raw) == [("A", "B1", 1588687728.923), ("A", "B2", 1588687728.923)]
    assert raw.items.rows() == [
        ("B1", "Café", "All Beauty", "from 3.99", "Howard"),
        ("B2", "", "A > B", "", ""),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_seen(tmp_path: Path, separator: str) -> None:
    (tmp_path / "interactions.csv").write_text(separator.join(["user_id", "item_id", "ts\nu", "a", "5\n"]))
    (tmp_path / "items.csv").write_text(f'item_id{separator}title\na{separator}"A, B; C"\n')
    raw = Csv(tmp_path).read()
    assert clicks(raw) == [("u", "a", 5.0)]
    assert raw.items.rows() == [("a", "A, B; C")]


@pytest.mark.parametrize(
    "option", [{"separator": "::"}, {"separator": ""}, {"separator": 5}, {"quote": "ab"}]
)
def test_a_separator_is_one_character(tmp_path: Path, option: dict[str, str]) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,ts\nu,a,5\n")
    with pytest.raises(DataError, match=rf"data.options.{next(iter(option))} = .*: expected one character"):
        Csv(tmp_path, titles=False, **option).read()


@pytest.mark.parametrize(
    ("begin", "what"),
    [(b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip"), (b"BZh9", "bzip2"), (b"PAR1", "Parquet")],
)
def test_what_is_no_text_is_named(tmp_path: Path, begin: bytes, what: str) -> None:
    (tmp_path / "interactions.csv").write_bytes(begin + bytes(100))
    with pytest.raises(DataError, match=f"interactions.csv: this is an? {what} file"):
        Csv(tmp_path, titles=False).read()


def test_lines_that_end_as_on_old_macs(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_bytes(b"user_id,item_id,ts\ru,a,5\ru,b,6\r")
    assert len(clicks(Csv(tmp_path, titles=False).read())) == 2


def test_columns_with_names_that_we_use(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("row,user_id,item_id,ts\n9,u,a,5\n")
    (tmp_path / "items.csv").write_text(",item_id,title,item,id,row\n0,a,A,b,c,d\n")
    raw = Csv(tmp_path).read()
    assert raw.interactions["row"].to_list() == [2]
    assert raw.items.to_dicts() == [{"item": "a", "title": "A", "item_": "b", "id_": "c", "row": "d"}]


def test_ids_that_became_decimals(tmp_path: Path) -> None:
    """Columns of whole numbers with gaps are floats in pandas."""
    table = pl.DataFrame({"user_id": [1.0, None], "session_id": [1, 2], "item_id": [7.0, 8.0], "ts": [5, 6]})
    table.write_parquet(tmp_path / "interactions.parquet")
    pl.DataFrame({"item_id": [7, 8], "title": ["A", "B"]}).write_parquet(tmp_path / "items.parquet")
    raw = Parquet(tmp_path).read()
    assert raw.interactions.select("session", "user", "item").rows() == [
        ("1", "1", "7"),
        ("2", "session 2", "8"),
    ]


@pytest.mark.parametrize(
    ("column", "values"),
    [("item_id", [["a"]]), ("ts", [[5]]), ("ts", [True]), ("item_id", [{"a": 1}])],
)
def test_columns_of_something_else(tmp_path: Path, column: str, values: list[object]) -> None:
    table = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "ts": [5]})
    table.with_columns(pl.Series(column, values)).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match=rf"interactions.parquet: {column}: holds \w+"):
        Parquet(tmp_path, titles=False).read()


def test_attributes_of_any_type(tmp_path: Path) -> None:
    table = {"user_id": ["u"], "item_id": ["a"], "ts": [5]}
    pl.DataFrame(table).write_parquet(tmp_path / "interactions.parquet")
    pl.DataFrame(
        {
            "item_id": ["a"],
            "title": ["A"],
            "nested": [[["x"], ["y", None]]],
            "record": [{"p": 1, "q": "z"}],
            "bytes": [b"\xff"],
            "array": pl.Series([["x", "y"]], dtype=pl.Array(pl.String, 2)),
        }
    ).write_parquet(tmp_path / "items.parquet")
    assert Parquet(tmp_path).read().items.rows() == [("a", "A", "x y", "1 z", "\ufffd", "x y")]
