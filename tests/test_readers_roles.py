"""Which column is what, what orders clicks and tells them apart, and what counts as missing."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.data import sessions
from llm4sbr.data.readers.jsonl import JsonLines
from llm4sbr.data.readers.tables import Csv, Parquet
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

DAY = 86_400.0


def csv(folder: Path, text: str, **options: object) -> RawData:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clicks.csv").write_text(text)
    return Csv(folder / "clicks.csv", titles=False, **options).read()  # type: ignore[arg-type]


def lists(raw: RawData, rule: sessions.Rule = "session") -> list[list[str]]:
    """The items of every session, by name."""
    log, _ = sessions.cut(raw, rule, seconds=1800)
    keys = log.keys.to_list()
    return [[keys[item] for item in part] for part in _parts(log)]


def _parts(log: sessions.ClickLog) -> list[list[int]]:
    bounds = log.offsets.tolist()
    return [log.items[start:end].tolist() for start, end in itertools.pairwise(bounds)]


DAYS = "session_id,item_id,date,timeframe\n"


def test_an_order_beside_a_day_orders_clicks_and_keeps_returns(tmp_path: Path) -> None:
    rows = "s,11,2016-05-09,30\ns,22,2016-05-09,20\ns,11,2016-05-09,10\ns,11,2016-05-09,30\n"
    raw = csv(tmp_path, DAYS + rows, order="timeframe")
    assert lists(raw) == [["11", "22", "11"]]  # the last row repeats the first in everything
    assert lists(csv(tmp_path, DAYS + rows)) == [["11", "22"]]


def test_a_position_is_used_without_being_asked_for_and_other_names_are_not(tmp_path: Path) -> None:
    rows = "s,a,2016-05-09,2\ns,b,2016-05-09,1\n"
    raw = csv(tmp_path, "session_id,item_id,date,position\n" + rows)
    assert lists(raw) == [["b", "a"]]
    assert "clicks.csv: clicks of one date are ordered by position" in raw.notes
    raw = csv(tmp_path, "session_id,item_id,date,rank\n" + rows)
    assert (lists(raw), raw.notes[0].rpartition("; ")[2]) == ([["a", "b"]], "not used: rank")
    numbers = rows.replace(",2\n", ",A-17\n").replace(",1\n", ",A-16\n")
    raw = csv(tmp_path, "session_id,item_id,date,order\n" + numbers)
    assert lists(raw) == [["a", "b"]]
    assert "clicks.csv: order is no order and not used" in raw.notes


@pytest.mark.parametrize(
    ("first", "second"),
    [("10:04:00", "10:03:59"), ("2016-05-09 10:04", "2016-05-09 10:03"), ("10", "9"), ("1.5", "1.25")],
)
def test_an_order_may_be_a_number_a_date_or_a_time_of_day(tmp_path: Path, first: str, second: str) -> None:
    raw = csv(tmp_path, f"{DAYS}s,a,2016-05-09,{first}\ns,b,2016-05-09,{second}\n", order="timeframe")
    assert lists(raw) == [["b", "a"]]


def test_an_order_that_is_none_is_refused_and_single_bad_values_are_counted(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"timeframe: most of its values are no numbers, .* data\.options\.order="
    ):
        csv(tmp_path, DAYS + "s,a,2016-05-09,first\ns,b,2016-05-09,second\n", order="timeframe")
    rows = "s,a,2016-05-09,x\ns,b,2016-05-09,2\ns,c,2016-05-09,1\n"
    raw = csv(tmp_path, DAYS + rows, order="timeframe")
    assert "clicks.csv: timeframe: 1 values cannot be read; their clicks come last" in raw.notes
    assert lists(raw) == [["c", "b", "a"]]


def test_the_finest_clock_wins_and_what_is_passed_over_is_said(tmp_path: Path) -> None:
    head = "user_id,video_id,date,hourmin,time_ms\n"
    rows = "u,9,20220408,1200,1649390400002\nu,5,20220408,1100,1649390400001\n"
    raw = csv(tmp_path, head + rows, item="video_id")
    assert lists(raw, "user") == [["5", "9"]]
    assert raw.notes[0] == (
        "columns of clicks.csv: user user_id, item video_id, time time_ms; not used: date, hourmin"
    )


def test_times_that_tie_are_counted_and_a_file_sorted_by_item_is_a_danger(tmp_path: Path) -> None:
    rows = [f"s{n},{item},2016-05-0{1 + n % 9}\n" for n in range(30) for item in "abc"]
    said = sessions.ties(csv(tmp_path, "session_id,item_id,date\n" + "".join(rows)), "session")
    assert said.startswith("66.7% of the clicks have the time of the click before")  # 60 of 90
    assert "SORTED BY ITEM" in said
    mixed = [
        row
        for n in range(0, 90, 3)
        for row in (rows[n + 1], rows[n + (n % 2) * 2], rows[n + 2 - (n % 2) * 2])
    ]
    said = sessions.ties(csv(tmp_path, "session_id,item_id,date\n" + "".join(mixed)), "session")
    assert said
    assert "SORTED" not in said
    ordered = csv(tmp_path, "session_id,item_id,date,order\n" + "s,a,2016-05-09,1\ns,b,2016-05-09,2\n")
    assert sessions.ties(ordered, "session") == ""


@pytest.mark.parametrize("text", ["NA", "nan", "NaN", "None", "NULL", "\\N", "<NA>"])
def test_missing_values_are_nobody(tmp_path: Path, text: str) -> None:
    rows = f"u,a,1700000000\n{text},b,1700000001\n{text},c,1700000002\nu,{text},1700000003\n"
    raw = csv(tmp_path, "user_id,item_id,timestamp\n" + rows)
    assert raw.interactions["item"].to_list() == ["a"]
    assert len(raw.rejected) == 3
    assert "clicks.csv: user_id: 2 values such as NA, null or nan count as missing" in raw.notes
    (tmp_path / "items.csv").write_text(f"item_id,title\na,{text}\n{text},Red Lamp\nb,Nan\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1700000000\n")
    assert Csv(tmp_path).read().items["title"].to_list() == [None, "Nan"]


def test_a_session_id_that_several_users_have_is_kept_apart(tmp_path: Path) -> None:
    rows = "u,1,a,1700000000\nv,1,b,1700000001\nu,2,c,1700000002\n,2,d,1700000003\nu,1,e,1700000004\n"
    raw = csv(tmp_path, "user_id,ga_session_id,item_id,timestamp\n" + rows, session="ga_session_id")
    assert sorted(lists(raw)) == [["a", "e"], ["b"], ["c", "d"]]
    assert "clicks.csv: 1 values of ga_session_id belong to several users, who are kept apart" in raw.notes


def test_session_ids_that_start_anew_each_day_are_told_and_the_advice_works(tmp_path: Path) -> None:
    day = 86_400
    rows = [
        f"{n},{item}{d},{1_700_000_000 + d * day + k}\n"
        for d in range(3)
        for n in "12"
        for k, item in enumerate("ab")
    ]
    head = "session_id,item_id,timestamp\n"
    raw = csv(tmp_path, head + "".join(rows))
    said = next(note for note in raw.notes if "pause of more than half a day" in note)
    assert said.startswith(
        "2 of 2 sessions have a pause of more than half a day: do ids of session_id start anew"
    )
    assert said.endswith("--sessions gap --set data.options.user=session_id")
    raw = csv(tmp_path, head + "".join(rows), user="session_id")
    assert sorted(lists(raw, "gap")) == [["a0", "b0"]] * 2 + [["a1", "b1"]] * 2 + [["a2", "b2"]] * 2
    once = csv(tmp_path, head + "".join(rows[:4]))
    assert not any("pause" in note for note in once.notes)


def test_times_without_a_year_and_in_other_units(tmp_path: Path) -> None:
    head = "user_id,item_id,timestamp\n"
    rows = "".join(
        f"u,{n},{date}\n" for n, date in enumerate(("0511", "0512", "0611", "1111", "1230", "0229"))
    )
    for options in ({}, {"time_format": "%m%d"}):
        raw = csv(tmp_path, head + rows, **options)
        times = raw.interactions["time"].to_list()
        assert times[1] - times[0] == DAY
        assert times[2] - times[0] == 31 * DAY
        assert "clicks.csv: the times have no year: all are taken for one, 1972" in raw.notes
    raw = csv(tmp_path, head + "u,a,3\nu,b,5\n")
    assert any("all lie in 1970" in note and "time_format=days" in note for note in raw.notes)
    raw = csv(tmp_path, head + "u,a,3\nu,b,5\n", time_format="days")
    assert raw.interactions["time"].to_list() == [3 * DAY, 5 * DAY]
    assert not any("1970" in note for note in raw.notes)


def test_atomic_files_of_recbole_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "shop.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\ta\t5\t1700000000\n"
    )
    (tmp_path / "shop.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\na\tRed Lamp\tLamp\n"
    )
    raw = Csv(tmp_path).read()
    assert raw.interactions.select("user", "item", "time").rows() == [("u", "a", 1.7e9)]
    assert raw.items.rows() == [("a", "Red Lamp", "Lamp")]
    assert raw.items.columns == ["item", "title", "class"]


def test_the_items_tables_own_item_column(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1700000000\n")
    (tmp_path / "items.csv").write_text("id,title\na,Red Lamp\n")
    with pytest.raises(DataError, match=r"data\.options\.items_item=COLUMN"):
        Csv(tmp_path).read()
    for option in ("items_item", "item"):
        assert Csv(tmp_path, **{option: "id"}).read().items["item"].to_list() == ["a"]  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"no column 'key' \(data.options.items_item\); found: id, title"):
        Csv(tmp_path, items_item="key").read()


def test_a_folder_of_part_files(tmp_path: Path) -> None:
    parts = tmp_path / "interactions.parquet"
    parts.mkdir()
    for part, (user, item) in enumerate((("u", "a"), ("v", "b"))):
        table = pl.DataFrame({"user_id": [user], "item_id": [item], "timestamp": [1.7e9]})
        table.write_parquet(parts / f"part-0000{part}.parquet")
    (parts / "_SUCCESS").touch()
    reader = Parquet(tmp_path, titles=False)
    assert reader.read().interactions.select("user", "item").rows() == [("u", "a"), ("v", "b")]
    assert [path.name for path in reader.files()] == ["part-00000.parquet", "part-00001.parquet"]
    for path in reader.files():
        path.unlink()
    with pytest.raises(DataError, match=r"a folder without part files that end with \.parquet"):
        reader.read()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "interactions.csv")
    with pytest.raises(DataError, match=r"no interactions\.csv"):
        Csv(tmp_path, titles=False).read()
    with pytest.raises(DataError, match="not a regular file"):
        Csv(tmp_path / "interactions.csv", titles=False).read()


def test_rows_that_list_items_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"prev_items lists several items in each row, .* --dataset amazon-m2"
    ):
        csv(tmp_path, "prev_items,next_item,locale\n\"['a' 'b']\",c,UK\n")
    with pytest.raises(DataError, match=r"history lists several items in each row, .* --dataset jsonl"):
        csv(tmp_path, "history,locale\n\"['a' 'b']\",UK\n")


def test_the_list_of_a_session_is_its_order(tmp_path: Path) -> None:
    (tmp_path / "sessions.jsonl").write_text(
        '{"session": "s", "items": ["a", "b", "a", "c"], "time": [300, 100, 100, 400]}\n'
    )
    raw = JsonLines(tmp_path, titles=False).read()
    assert lists(raw) == [["a", "b", "a", "c"]]
    assert "sessions.jsonl: 1 sessions have times against the order of their lists, which counts" in raw.notes
