"""Logs that list several items in each row: RecBole's samples, Amazon-M2, MIND."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from llm4sbr.data import sessions
from llm4sbr.data.readers.amazon_m2 import AmazonM2
from llm4sbr.data.readers.mind import Mind
from llm4sbr.data.readers.recbole import RecBole, joined
from llm4sbr.data.readers.tables import Csv
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData


def lists(raw: RawData, rule: sessions.Rule = "session") -> dict[str, str]:
    """Session -> its items, separated by spaces."""
    log, repeats = sessions.cut(raw, rule, seconds=1800)
    assert repeats == 0
    keys = log.keys.to_list()
    bounds = itertools.pairwise(log.offsets.tolist())
    found = [" ".join(keys[item] for item in log.items[start:end]) for start, end in bounds]
    return dict(zip(log.names.to_list(), found, strict=True))


def m2(folder: Path) -> Path:
    """Two sessions of UK and one each of DE and JP: 3 + 5 + 2 + 3 clicks; one product in two locales."""
    (folder / "sessions_train.csv").write_text(
        "prev_items,next_item,locale\n"
        "['B01' 'B02'],B03,UK\n"
        "\"['B02' 'B01' 'B02'\n 'B03']\",B01,UK\n"
        "['B02'],B04,DE\n"
        "\"['B05', 'B06']\",B05,JP\n"
        "['B01' 'B02' ... 'B07'],B03,UK\n"
    )
    (folder / "products_train.csv").write_text(
        "id,locale,title,price,brand,color,size,model,material,author,desc\n"
        'B02,DE,"Lampe, rot",9.99,Lux,Rot,,,,,Eine Lampe\n'
        "B01,UK,Oak Chair,45.0,Wood,,,,Oak,,A chair\n"
        "B02,UK,Red Lamp,8.5,Lux,Red,,,,,A lamp\n"
        "B03,UK,nan,1.0,,,,,,,\n"
        "B04,DE,Uhr,20.0,,,,,,,\n"
        "B05,JP,時計,2000.0,,,,,,,\n"
        "B06,JP,椅子,40000000.07,,,,,,,\n"
    )
    return folder


def test_amazon_m2_reads_the_text_of_arrays(tmp_path: Path) -> None:
    raw = AmazonM2(m2(tmp_path)).read()
    assert raw.ordered_only
    assert lists(raw) == {
        "2": "B01 B02 B03",
        "3": "B02 B01 B02 B03 B01",
        "4": "B02 B04",
        "5": "B05 B06 B05",
    }
    file = tmp_path / "sessions_train.csv"
    cut = "prev_items: cut short by numpy, which writes ... for the middle of a long array"
    assert raw.rejected == [f"{file}:6: {cut}"]
    assert raw.notes[0].startswith("sessions_train.csv: sessions by locale: DE 1, JP 1, UK 3; one alone: ")
    assert raw.items.height == 7
    assert raw.items.columns == [
        *("item", "title", "price", "brand", "color", "size", "model", "material", "author")
    ]


def test_amazon_m2_of_one_locale_has_its_titles(tmp_path: Path) -> None:
    raw = AmazonM2(m2(tmp_path) / "sessions_train.csv", locale="UK").read()
    assert lists(raw) == {"2": "B01 B02 B03", "3": "B02 B01 B02 B03 B01"}
    assert raw.items.select("item", "title").rows() == [
        ("B01", "Oak Chair"),
        ("B02", "Red Lamp"),
        ("B03", None),
    ]
    assert len(lists(AmazonM2(tmp_path, locale=["DE", "JP"]).read())) == 2
    with pytest.raises(
        DataError, match=r"no locale 'US' \(data.options.locale\); its sessions: DE 1, JP 1, UK 3"
    ):
        AmazonM2(tmp_path, locale="US").read()


def test_amazon_m2_without_products_and_of_the_test_part(tmp_path: Path) -> None:
    (m2(tmp_path) / "products_train.csv").unlink()
    with pytest.raises(DataError, match=r"no products_train\.csv .*data\.options\.titles=false"):
        AmazonM2(tmp_path).read()
    file = tmp_path / "sessions_test_task1.csv"
    file.write_text("prev_items,locale\n['B01' 'B02'],UK\n")
    assert lists(AmazonM2(file, titles=False).read()) == {"2": "B01 B02"}
    file.write_text("session,item\n1,a\n")
    with pytest.raises(DataError, match=r"no column prev_items; found: session, item"):
        AmazonM2(file, titles=False).read()


def mind(folder: Path) -> Path:
    """Two users with histories of 2 and 1; 4 impressions with 1, 2, 0 and 1 clicks."""
    rows = [
        ("1", "U1", "11/13/2019 8:30:00 AM", "N1 N2", "N3-0 N4-1"),
        ("2", "U1", "11/12/2019 1:00:00 PM", "N1 N2", "N5-1 N3-0 N1-1"),
        ("3", "U2", "11/14/2019 9:00:00 AM", "N4", "N3-0"),
        ("4", "U3", "11/14/2019 9:00:00 AM", "", "N2-1 N4-0"),
    ]
    (folder / "behaviors.tsv").write_text("\n".join("\t".join(row) for row in rows) + "\n")
    news = [
        (f"N{n}", "sports", "golf", f'A "{n}" title', "Abstract", "https://x", "[]", "[]")
        for n in range(1, 6)
    ]
    (folder / "news.tsv").write_text("\n".join("\t".join(row) for row in news) + "\n")
    return folder


def test_mind_has_histories_and_clicked_impressions(tmp_path: Path) -> None:
    raw = Mind(mind(tmp_path)).read()
    assert lists(raw, "user") == {"U1": "N1 N2 N5 N1 N4", "U2": "N4", "U3": "N2"}
    assert raw.items.columns == ["item", "title", "category", "subcategory"]
    assert raw.items.row(0) == ("N1", 'A "1" title', "sports", "golf")
    assert raw.notes == [
        "behaviors.tsv: 1 impressions have several clicks, taken in the order shown",
        "behaviors.tsv: 3 earlier clicks of 2 users have no times and come before the user's first "
        "impression; without them: --set data.options.history=false",
    ]
    raw = Mind(tmp_path, history=False).read()
    assert lists(raw, "gap") == {"U1/1": "N5 N1", "U1/2": "N4", "U3/1": "N2"}
    assert raw.interactions["time"].min() == 1_573_563_600.0  # 2019-11-12 13:00 UTC


def test_mind_that_has_no_clicks_or_other_columns(tmp_path: Path) -> None:
    file = mind(tmp_path) / "behaviors.tsv"
    file.write_text("1\tU1\t11/13/2019 8:30:00 AM\tN1\tN3 N4\n")
    with pytest.raises(DataError, match="none of its 1 impressions has a click, such as N123-1"):
        Mind(tmp_path).read()
    file.write_text("1\tU1\tN1\n")
    with pytest.raises(DataError, match=r"behaviors\.tsv:1: 3 fields, but names for 5"):
        Mind(tmp_path).read()


HEAD = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float\n"


def parts(folder: Path) -> Path:
    """User u has five clicks a b a c d, of which the last two are targets of other parts; v has x y."""
    (folder / "shop.train.inter").write_text(HEAD + "u\ta b\ta\t30\nu\ta\tb\t20\nv\tx\ty\t5\n")
    (folder / "shop.valid.inter").write_text(HEAD + "u\ta b a\tc\t40\n")
    (folder / "shop.test.inter").write_text(HEAD + "u\ta b a c\td\t50\n")
    names = "item_id:token\ttitle:token_seq\tcategories:token_seq\n"
    (folder / "shop.item").write_text(names + 'a\tRed "Lamp\tLamps\nb\tOak Chair\tChairs\n')
    return folder


def test_samples_of_recbole_become_their_sequences_again(tmp_path: Path) -> None:
    raw = RecBole(parts(tmp_path)).read()
    assert lists(raw) == {"u": "a b a c d", "v": "x y"}
    by_order = raw.interactions.sort("order").filter(session="u")
    assert by_order["time"].to_list() == [20.0, 20.0, 30.0, 40.0, 50.0]  # the first has that of the next
    assert raw.notes[0] == "shop.*.inter: 5 samples put together to 2 sequences"
    assert raw.items.rows() == [("a", 'Red "Lamp', "Lamps"), ("b", "Oak Chair", "Chairs")]
    assert [file.name for file in RecBole(tmp_path / "shop.valid.inter").files()] == [
        *("shop.train.inter", "shop.valid.inter", "shop.test.inter", "shop.item")
    ]


def samples(*texts: str) -> list[list[tuple[str, float | None]]]:
    return [[(item, None) for item in text.split()] for text in texts]


@pytest.mark.parametrize(
    ("given", "longest", "expected"),
    [
        (("a b", "a b c", "a b c d"), 4, ["a b c d"]),
        (("a b c d", "a b c", "a b"), 4, ["a b c d"]),
        (("a b", "a b c", "b c d", "c d e"), 3, ["a b c d e"]),  # cut to the last three
        (("c d e", "b c d", "a b c", "a b"), 3, ["a b c d e"]),
        (("a b c", "b c d"), 5, ["a b c", "b c d"]),  # shorter than the longest: nothing was cut
        (("a b", "c d", "a b"), 2, ["a b", "c d"]),
        (("a b", "b c"), 2, ["a b", "b c"]),
    ],
)
def test_samples_that_continue_each_other(given: tuple[str, ...], longest: int, expected: list[str]) -> None:
    found = joined(samples(*given), longest)
    assert sorted(" ".join(item for item, _ in one) for one in found) == expected


def test_recbole_without_times_with_lists_of_times_and_single_clicks(tmp_path: Path) -> None:
    file = tmp_path / "s.inter"
    file.write_text("session_id:token\titem_id_list:token_seq\titem_id:token\n1\ta b\tc\n2\tb\ta\n1\tx\ty\n")
    raw = RecBole(file, titles=False).read()
    assert raw.ordered_only
    assert lists(raw) == {"1/1": "x y", "1/2": "a b c", "2": "b a"}
    head = "user_id:token\titem_id_list:token_seq\ttimestamp_list:float_seq\titem_id:token\ttimestamp:float\n"
    file.write_text(f"{head}u\ta b\t10 20\tc\t90\n")
    assert RecBole(file, titles=False).read().interactions["time"].to_list() == [10.0, 20.0, 90.0]
    file.unlink()
    for part, row in (("train", "u\ta\t1"), ("valid", "u\tb\t2"), ("test", "u\tc\t3")):
        text = f"user_id:token\titem_id:token\ttimestamp:float\n{row}\n"
        (tmp_path / f"s.{part}.inter").write_text(text)
    assert RecBole(tmp_path, titles=False).read().interactions["item"].to_list() == ["a", "b", "c"]


def test_recbole_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one log NAME\.inter, found none"):
        RecBole(tmp_path).read()
    (parts(tmp_path) / "shop.item").unlink()
    with pytest.raises(DataError, match=r"shop\.item: no such file; .*data\.options\.titles=false"):
        RecBole(tmp_path).read()
    (tmp_path / "shop.test.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(DataError, match=r"shop\.test\.inter:1: other columns than shop\.train\.inter"):
        RecBole(tmp_path, titles=False).read()
    (tmp_path / "other.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(DataError, match=r"found other\.inter, shop\.\*\.inter; give --data FILE"):
        RecBole(tmp_path).read()


@pytest.mark.parametrize("write", [m2, mind, parts])
def test_the_reader_for_tables_names_the_one_for_lists(tmp_path: Path, write: object) -> None:
    write(tmp_path)  # type: ignore[operator]
    reader = {m2: "amazon-m2", mind: "mind", parts: "recbole"}[write]  # type: ignore[index]
    with pytest.raises(DataError, match=rf"no interactions\.csv .*--dataset {reader} reads"):
        Csv(tmp_path).read()
