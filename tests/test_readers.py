from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.data.readers import amazon
from llm4sbr.data.readers.amazon import Amazon
from llm4sbr.data.readers.jsonl import JsonLines
from llm4sbr.data.readers.tables import Csv, Parquet
from llm4sbr.errors import DataError

ITEMS = "item_id,title\na,A\nb,B\n"


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def log(folder: Path, clicks: str) -> Path:
    return write(folder, interactions__csv=clicks, items__csv=ITEMS)


@pytest.mark.parametrize(
    ("values", "seconds", "notes"),
    [
        (["1e9", "1000000010.5"], [1e9, 1000000010.5], []),
        (
            ["1700000000000", "1700000001500"],
            [1.7e9, 1700000001.5],
            ["interactions.csv: timestamps are milliseconds"],
        ),
        (
            ["1700000000000000", "1700000000500000"],
            [1.7e9, 1700000000.5],
            ["interactions.csv: timestamps are microseconds"],
        ),
        (["1970-01-02", "1970-01-02 00:00:01"], [86400.0, 86401.0], []),
        (["1970-01-01T01:00:00Z", "1970-01-01T01:00:00+01:00"], [3600.0, 0.0], []),
        (["1970-01-01T00:00:00.25", "1970-01-01 00:01"], [0.25, 60.0], []),
    ],
)
def test_times_are_seconds_whatever_their_form(tmp_path, values, seconds, notes):
    raw = Csv(log(tmp_path, "user_id,item_id,timestamp\n" + "".join(f"u,a,{v}\n" for v in values))).read()
    assert raw.interactions["time"].to_list() == seconds
    used = "columns of interactions.csv: user user_id, item item_id, time timestamp"
    assert raw.notes == [used, *notes]
    assert not raw.ordered_only


@pytest.mark.parametrize(
    "header", ["userId,movieId,ts", "USER-ID,Item ID,Timestamp", "reviewerID,asin,unixReviewTime"]
)
def test_common_names_are_recognised(tmp_path, header):
    raw = Csv(log(tmp_path, f"{header}\nu,a,1\n")).read()
    assert raw.interactions.rows() == [("u", "a", 1.0, 2)]


def test_session_and_user_order_and_own_names(tmp_path):
    raw = Csv(log(tmp_path, "session_id,user,item_id,order\ns,u,a,2\n\ns,u,b,1\n")).read()
    assert raw.ordered_only
    assert raw.interactions.rows() == [("s", "u", "a", 2, 2), ("s", "u", "b", 1, 4)]
    folder = write(
        tmp_path / "own",
        clicks__txt="who;what;when\n u ;a;5\n",
        films__txt="what;label;genre;year\na;A;Drama;1990\n",
    )
    raw = Csv(
        folder / "clicks.txt",
        items=folder / "films.txt",
        user="who",
        item="what",
        time="when",
        title="label",
        attributes=["genre"],
        separator=";",
    ).read()
    assert raw.interactions.rows() == [("u", "a", 5.0, 2)]
    assert raw.items.to_dicts() == [{"item": "a", "title": "A", "genre": "Drama"}]


def test_a_separator_holds_where_a_table_has_it(tmp_path):
    clicks = "user_id^item_id^timestamp\nu^a^5\n"
    raw = Csv(
        write(tmp_path, interactions__csv=clicks, items__csv="item_id,title\na,A\n"), separator="^"
    ).read()
    assert raw.interactions.rows() == [("u", "a", 5.0, 2)]
    assert raw.items.to_dicts() == [{"item": "a", "title": "A"}]


def test_byte_order_mark_quotes_and_carriage_returns(tmp_path):
    folder = write(
        tmp_path, interactions__csv='\ufeffuser_id,item_id,timestamp\r\n"u,1",a,5\r\n', items__csv=ITEMS
    )
    assert Csv(folder).read().interactions.rows() == [("u,1", "a", 5.0, 2)]


def test_a_title_with_an_unquoted_comma_is_rejected_not_cut(tmp_path):
    folder = write(
        tmp_path,
        interactions__csv="user_id,item_id,timestamp\nu,a,5\n",
        items__csv="item_id,title\na,A, B\nb,B\n",
    )
    raw = Csv(folder).read()
    assert raw.items["item"].to_list() == ["b"]
    assert raw.rejected == [f"{folder / 'items.csv'}:2: 3 fields where the header has 2"]


def test_parquet_takes_numbers_dates_and_lists(tmp_path):
    times = pl.Series(["1970-01-01 00:00:10"]).str.to_datetime()
    pl.DataFrame({"user_id": [7], "item_id": [1], "timestamp": times}).write_parquet(
        tmp_path / "interactions.parquet"
    )
    items = pl.DataFrame({"item_id": [1], "title": ["A"], "genres": [["Drama", "War"]]})
    items.write_parquet(tmp_path / "items.parquet")
    raw = Parquet(tmp_path).read()
    assert raw.interactions.rows() == [("7", "1", 10.0, 1)]
    assert raw.items.rows() == [("1", "A", "Drama War")]


def test_jsonl_times_titles_and_bad_lines(tmp_path):
    lines = [
        {"session": "s", "items": ["a", "b", "a"], "titles": ["A", "B", "A"], "time": 100},
        {"session": "t", "items": [3], "titles": ["C"], "time": [7]},
        {"session": "x", "items": []},
        {"session": "y", "items": ["a"], "time": [1, 2]},
        {"session": "z", "items": ["a"]},
    ]
    path = tmp_path / "sessions.jsonl"
    path.write_text("\n".join([*map(json.dumps, lines), "{broken", "[1]"]))
    raw = JsonLines(path).read()
    assert raw.interactions.select("session", "item", "time").rows() == [
        ("s", "a", 100.0),
        ("s", "b", 101.0),
        ("s", "a", 102.0),
        ("t", "3", 7.0),
    ]
    assert raw.items.rows() == [("a", "A"), ("b", "B"), ("3", "C")]
    assert [line.removeprefix(f"{path}:") for line in raw.rejected] == [
        "3: items: not a list of at least one item",
        "4: time: 2 times for 1 items",
        "6: not a JSON object: {broken",
        "7: not a JSON object: [1]",
        "5: time: missing",
    ]


def test_jsonl_without_times_keeps_repeats_and_needs_titles_somewhere(tmp_path):
    path = tmp_path / "sessions.jsonl"
    path.write_text(json.dumps({"session": "s", "items": ["a", "b", "a"]}))
    with pytest.raises(DataError, match=r"no items\.jsonl .* and no session has a list 'titles'"):
        JsonLines(tmp_path).read()
    write(tmp_path, items__csv=ITEMS)
    raw = JsonLines(tmp_path).read()
    assert raw.ordered_only
    assert raw.interactions["item"].to_list() == ["a", "b", "a"]
    assert raw.interactions["time"].is_unique().all()


def test_amazon_reads_json_and_python_literals(tmp_path):
    reviews = [{"reviewerID": "U", "asin": asin, "unixReviewTime": 86400} for asin in ("B1", "B2")]
    write(tmp_path, reviews_Beauty_5__json="\n".join([*map(json.dumps, reviews), "nonsense"]))
    meta = [
        "{'asin': 'B1', 'title': 'Soap &amp; Co', 'categories': [['Beauty', 'Bath']], 'price': 3.5}",
        '{"asin": "B2", "title": "Comb", "category": ["Beauty", "Hair"], "price": "$2.00"}',
        "{'asin': 'B3', 'title': 'never reviewed'}",
        "{'asin': 'B1', 'title': __import__('os').abort()}",
    ]
    write(tmp_path, meta_Beauty__json="\n".join(meta))
    raw = Amazon(tmp_path).read()
    assert raw.interactions.rows() == [("U", "B1", 86400.0, 1), ("U", "B2", 86400.0, 2)]
    assert raw.items.rows() == [
        ("B1", "Soap & Co", "Beauty > Bath", "3.5", ""),
        ("B2", "Comb", "Beauty > Hair", "$2.00", ""),
    ]
    assert [line.split(": ")[0].rpartition("/")[2] for line in raw.rejected] == [
        "reviews_Beauty_5.json:3",
        "meta_Beauty.json:4",
    ]


def test_amazon_asks_for_what_it_lacks(tmp_path):
    with pytest.raises(DataError, match="no such file or folder; it should hold reviews_"):
        Amazon(tmp_path / "nowhere").read()
    write(tmp_path, one__json="{}", two__json="{}")
    with pytest.raises(DataError, match=r"expected one review file \*\.json\.gz, found one\.json, two\.json"):
        Amazon(tmp_path).read()


def test_amazon_is_fetched_once_and_counted(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(amazon, "_URL", site.as_uri())
    with pytest.raises(DataError, match=r"cannot be fetched: .*; or give --data FOLDER"):
        Amazon(category="Toys").read()
    with pytest.raises(DataError, match="expected a name such as Video_Games"):
        Amazon(category="../Toys").read()
    for category in ("Toys", "Beauty"):
        for name, row in (
            (f"reviews_{category}_5", {"reviewerID": "U", "asin": "B1", "unixReviewTime": 86400}),
            (f"meta_{category}", {"asin": "B1", "title": "Kite"}),
        ):
            (site / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    assert Amazon(category="Toys").read().items["title"].to_list() == ["Kite"]
    with pytest.raises(DataError, match="1 reviews, expected 198,502; delete it to fetch it again"):
        Amazon().read()
    shutil.rmtree(site)
    assert Amazon(category="Toys").read().items["title"].to_list() == ["Kite"]


def test_jsonl_with_numbers_and_letters_that_fit_nowhere(tmp_path):
    path = tmp_path / "sessions.jsonl"
    path.write_text(
        '{"session": "s", "items": ["a\\ud800", "b"], "titles": ["A\\ud83c\\udf39", "B\\udc00"], "time": 1}\n'
        f'{{"session": "t", "items": ["a", "b"], "titles": ["A", "B"], "time": {"9" * 400}}}\n'
        '{"session": "u", "items": ["a", true], "titles": ["A", "B"], "time": 1e400}\n'
    )
    raw = JsonLines(path).read()
    assert raw.interactions["item"].to_list() == ["a?", "b"]
    assert raw.items["title"].to_list() == ["A🌹", "B?"]
    assert raw.rejected == [
        f"{path}:2: time: not a number: {'9' * 40}",
        f"{path}:3: items: an item that is neither text nor a whole number",
    ]
