"""Public logs as their publishers write them, given as they are; and packed files that grow without end."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.data import sessions
from llm4sbr.data.readers import files
from llm4sbr.data.readers.amazon import Amazon
from llm4sbr.data.readers.jsonl import JsonLines
from llm4sbr.data.readers.movielens import MovieLens
from llm4sbr.data.readers.tables import Csv, Parquet
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData


def clicks(raw: RawData) -> list[tuple[object, ...]]:
    who = "session" if "session" in raw.interactions.columns else "user"
    return raw.interactions.sort("time", maintain_order=True).select(who, "item", "time").rows()


@pytest.mark.parametrize(
    "header",
    ["sessionId;userId;itemId;timeframe;eventdate", "session_id;user_id;item_id;timeframe;eventdate"],
)
def test_diginetica_needs_no_options(tmp_path: Path, header: str) -> None:
    (tmp_path / "train-item-views.csv").write_text(
        f"{header}\n1;NA;5;900;2016-05-09\n1;NA;6;30;2016-05-09\n1;NA;5;40;2016-05-09\n2;7;6;1;2016-05-10\n"
    )
    (tmp_path / "products.csv").write_text("itemId;pricelog2;product.name.tokens\n5;10;4875,776\n6;8;1\n")
    raw = Csv(tmp_path).read()
    log, repeats = sessions.cut(raw, "session", seconds=0)
    assert repeats == 0
    assert [log.keys[code] for code in log.items.tolist()] == ["6", "5", "5", "6"]
    assert raw.items.rows() == [("5", "4875,776", "10"), ("6", "1", "8")]
    assert [file.name for file in Csv(tmp_path).files()] == ["train-item-views.csv", "products.csv"]


ARTICLES = (
    "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,"
    "graphical_appearance_no,graphical_appearance_name,colour_group_code,colour_group_name,"
    "perceived_colour_value_id,perceived_colour_value_name,perceived_colour_master_id,"
    "perceived_colour_master_name,department_no,department_name,index_code,index_name,index_group_no,"
    "index_group_name,section_no,section_name,garment_group_no,garment_group_name,detail_desc\n"
    "0100000001,0100000,Warm hat,1,Hat,Accessories,2,Solid,3,Black,4,Dark,5,Black,6,Knit,A,Ladies,1,Ladies,"
    '7,Basics,8,Knitwear,"A hat, knitted."\n'
)


def test_h_and_m_keeps_zeros_in_front_and_the_texts(tmp_path: Path) -> None:
    (tmp_path / "transactions_train.csv").write_text(
        "t_dat,customer_id,article_id,price,sales_channel_id\n"
        "2018-09-20,c1,0100000001,0.05,2\n2018-09-20,c1,0100000001,0.05,2\n2018-09-21,c2,0100000002,0.01,1\n"
    )
    (tmp_path / "articles.csv").write_text(ARTICLES)
    raw = Csv(tmp_path).read()
    assert clicks(raw) == [
        ("c1", "0100000001", 1537401600.0),
        ("c1", "0100000001", 1537401600.0),
        ("c2", "0100000002", 1537488000.0),
    ]
    assert raw.items.to_dicts() == [
        {
            "item": "0100000001",
            "title": "Warm hat",
            "product_type_name": "Hat",
            "colour_group_name": "Black",
            "department_name": "Knit",
            "detail_desc": "A hat, knitted.",
        }
    ]
    assert Csv(tmp_path, attributes=["garment_group_name"]).read().items.columns[2:] == ["garment_group_name"]


KUAIRAND = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def test_kuairand_has_two_logs_and_impressions_that_are_no_clicks(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = "0,{video},{day},1200,{ms},{click},0,0,0,0,0,1,5,9,0,0,0,0,1\n"
    first = rows.format(video=9, day=20220408, ms=1649390400002, click=1)
    other = rows.format(video=4, day=20220408, ms=1649390400003, click=0)
    late = rows.format(video=5, day=20220422, ms=1650600000000, click=1)
    (folder / "log_standard_4_08_to_4_21_pure.csv").write_text(KUAIRAND + first + other)
    (folder / "log_standard_4_22_to_5_08_pure.csv").write_text(KUAIRAND + late)
    (folder / "log_random_4_22_to_5_08_pure.csv").write_text(KUAIRAND + late * 3)
    raw = Csv(tmp_path).read()
    assert clicks(raw) == [("0", "9", 1649390400.002), ("0", "5", 1650600000.0)]
    assert "1 rows are no clicks, since is_click is not 1" in raw.notes
    assert (
        "read as KuaiRand's log_standard_*.csv; not read: log_random_*.csv, whose videos were drawn by chance"
        in raw.notes
    )
    assert "no titles: items have only ids, useless for an LLM" in raw.notes
    assert len(clicks(Csv(tmp_path, only="all").read())) == 3
    one = Csv(folder / "log_standard_4_22_to_5_08_pure.csv")
    assert len(clicks(one.read())) == 1
    with pytest.raises(DataError, match=r"in none of its 3 rows is_click is 7 \(data\.options\.only\)"):
        Csv(tmp_path, only="is_click=7").read()
    with pytest.raises(DataError, match=r"data\.options\.only = 'clicked=1': expected COLUMN=VALUE"):
        Csv(tmp_path, only="clicked=1").read()


@pytest.mark.parametrize("matrix", ["big_matrix.csv", "small_matrix.csv"])
def test_kuairec_has_captions(tmp_path: Path, matrix: str) -> None:
    (tmp_path / matrix).write_text(
        "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        "1,10,5,10,2020-07-05 00:09:59.500,20200705,1593878999.5,0.5\n1,11,5,10,,,,0.5\n"
    )
    (tmp_path / "kuairec_caption_category.csv").write_text(
        "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
        "second_level_category_id,second_level_category_name,third_level_category_id,"
        'third_level_category_name\n10,UNKNOWN,"one, two",[tea],27,Food,124,Drinks,9,Tea\n'
    )
    raw = Csv(tmp_path).read()
    assert clicks(raw) == [("1", "10", 1593878999.5)]
    assert raw.rejected == [f"{tmp_path / matrix}:3: timestamp: missing"]
    assert raw.items.rows() == [("10", "one, two", "[tea]", "Food", "Drinks", "Tea")]


MOVIES = (
    'movieId,title,genres\n1,"Paper Moth, The (1990)",Comedy|Drama\n2,Untagged (2019),(no genres listed)\n'
)


def movielens(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,1,4.0,1112484676\n"
    )
    (folder / "movies.csv").write_text(MOVIES)
    return folder


def test_movielens_as_tables_in_a_folder_a_zip_or_a_folder_above(tmp_path: Path) -> None:
    folder = movielens(tmp_path / "ml-20m" / "ml-20m")
    packed = tmp_path / "ml-20m.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"ml-20m/{file.name}")
    for path in (folder, folder.parent, packed, folder / "ratings.csv"):
        raw = MovieLens(path).read()
        assert clicks(raw) == [("1", "1", 1112484676.0), ("1", "2", 1112486027.0)]
        assert raw.items.rows() == [
            ("1", "The Paper Moth (1990)", "1990", "Comedy Drama"),
            ("2", "Untagged (2019)", "2019", ""),
        ]
    (folder / "ratings.csv").write_text("who,what\n1,2\n")
    with pytest.raises(DataError, match=r"ratings\.csv:1: no column for the user; found: who, what"):
        MovieLens(folder).read()
    with pytest.raises(DataError, match="not MovieLens: looked for"):
        MovieLens(tmp_path).read()


META = '{"main_category": "All Beauty", "title": "Soap", "parent_asin": "B1", "price": 3.5, "store": "S"}\n'
REVIEWS = "user_id,parent_asin,rating,timestamp\n"


def test_amazon_of_2023_as_a_table_whole_or_in_parts(tmp_path: Path) -> None:
    (tmp_path / "meta_All_Beauty.jsonl").write_text(META)
    rows = ["A,B1,5.0,1588687728923\n", "A,B2,3.0,1588687728000\n", "C,B1,1.0,1588687729000\n"]
    whole = tmp_path / "All_Beauty.csv.gz"
    whole.write_bytes(gzip.compress((REVIEWS + "".join(rows)).encode()))
    expected = [("A", "B2", 1588687728.0), ("A", "B1", 1588687728.923), ("C", "B1", 1588687729.0)]
    assert clicks(Amazon(tmp_path).read()) == expected
    whole.unlink()
    head = REVIEWS.replace("\n", ",history\n")
    for part, row in zip(("train", "valid", "test"), rows, strict=True):
        (tmp_path / f"All_Beauty.{part}.csv").write_text(head + row.replace("\n", ",B0 B9\n"))
    raw = Amazon(tmp_path).read()
    assert clicks(raw) == expected
    assert raw.items.rows() == [("B1", "Soap", "All Beauty", "3.5", "S")]
    assert len(Amazon(tmp_path).files()) == 4


def test_an_items_table_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("u,a,5\n")
    (tmp_path / "items.csv").write_text("a,Red Lamp,Lamps\nb,Oak Chair,Chairs\n")
    names = ["user", "item", "time"]
    raw = Csv(tmp_path / "clicks.csv", columns=names, items_columns=["item", "title", "kind"]).read()
    assert raw.items.rows() == [("a", "Red Lamp", "Lamps"), ("b", "Oak Chair", "Chairs")]
    with pytest.raises(
        DataError, match=r"items\.csv:1: 3 fields, but names for 2 \(data\.options\.items_columns\)"
    ):
        Csv(tmp_path / "clicks.csv", columns=names, items_columns=["item", "title"]).read()


def test_a_packed_file_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A harmless file of 20 KB: only the bound is lowered."""
    monkeypatch.setattr(files, "UNPACKED", 10_000)
    monkeypatch.setattr(files, "RATIO", 2)
    said = r"unpacks to more than 10,000 bytes, the limit for a packed file of this size"
    table = "user_id,item_id,timestamp\n" + "u,a,5\n" * 4000
    for name, text in (("rows.csv.gz", table), ("line.csv.gz", "x" * 20_000), ("bom.jsonl.gz", "7" * 20_000)):
        file = tmp_path / name
        file.write_bytes(gzip.compress(text.encode()))
        reader = JsonLines(file, titles=False) if "jsonl" in name else Csv(file, titles=False)
        with pytest.raises(DataError, match=said) as caught:
            reader.read()
        assert "\n" not in str(caught.value)
    (tmp_path / "rows.csv").write_text(table)
    assert len(clicks(Csv(tmp_path / "rows.csv", titles=False).read())) == 4000  # unpacked, as advised
    packed = tmp_path / "ml.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/ratings.csv", table)
        archive.writestr("ml/movies.csv", MOVIES)
    with pytest.raises(DataError, match=r"ratings\.csv: .*10,000 bytes"):
        MovieLens(packed).read()
    pl.DataFrame({"user": ["u"] * 4000, "item": ["a"] * 4000, "time": [5] * 4000}).write_parquet(
        tmp_path / "rows.parquet"
    )
    with pytest.raises(DataError, match=r"rows\.parquet: its 4,000 rows unpack to more than 10,000 bytes"):
        Parquet(tmp_path / "rows.parquet", titles=False).read()
