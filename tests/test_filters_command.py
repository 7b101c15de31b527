"""Filters on the command line: one session, a stream, and whole sets."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.cli import _guarded
from llm4sbr.report.terminal.recommendation import show_recommendation
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.items import ITEMS
from llm4sbr.testing.toy_export import toy_export

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_export(tmp_path_factory.mktemp("exports") / "onnx")


def test_filters_and_attributes(export: Path, capsys: Output) -> None:
    asked = ["recommend", str(export), "--session", "i03", "--where", "price > 10", "--where", "in_stock"]
    assert _guarded([*asked, "--without", "i12,i14", "--attributes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["key"] for item in found["items"]] == ["i16", "i18", "i20"]
    assert found["items"][0]["attributes"] == {"category": "Rug", "price": 16}
    assert found["passing"] == 3
    assert _guarded([*asked, "--attributes"]) == 0
    shown = capsys.readouterr().out
    assert "of 5 items that pass" in shown
    assert ["Clock", "12", "12.000"] in [line.split()[-3:] for line in shown.splitlines()]


def test_what_leaves_nothing_says_so(export: Path, capsys: Output) -> None:
    assert _guarded(["recommend", str(export), "--session", "i03", "--where", "category = Lamps"]) == 0
    shown = capsys.readouterr().out
    assert "no item passes category = Lamps; did you mean 'Lamp'?" in shown
    assert "score" not in shown


def test_keys_and_named_filters_from_files(export: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "keys.txt").write_text("i07\ni09\nnew\n")
    asked = ["recommend", str(export), "--session", "i03", "--json"]
    assert _guarded([*asked, "--only", f"@{tmp_path / 'keys.txt'}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["key"] for item in found["items"]] == ["i07", "i09"]
    assert found["notes"] == ["only: no item is called 'new'"]
    assert _guarded([*asked, "--filter", f"in_stock={tmp_path / 'keys.txt'}", "--where", "in_stock"]) == 0
    told = capsys.readouterr()
    assert [item["key"] for item in json.loads(told.out)["items"]] == ["i07", "i09"]
    assert "filter in_stock: no item has 1 of the keys" in told.err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--where", "colour = red"], "no attribute is called 'colour'; there are category, price"),
        (["--where", "on_sale"], "no filter is called 'on_sale'; there are in_stock"),
        (["--where", "price <="], "expected a value"),
        (["--where", "price <= cheap"], "'cheap' is none"),
        (["--only", "@missing.txt"], "missing.txt: No such file"),
        (["--filter", "in_stock"], "expected NAME=FILE"),
        (["--filter", "in_stock=missing.txt"], "missing.txt: No such file"),
        (["--only", "new", "--unknown", "fail"], "only: no item is called 'new'"),
    ],
)
def test_bad_filters_are_one_line(export: Path, capsys: Output, asked: list[str], message: str) -> None:
    sessions = export.parent / "in.jsonl"
    sessions.write_text('["i03"]')
    for session in (["--session", "i03"], ["--in", str(sessions)]):
        assert _guarded(["recommend", str(export), *session, *asked, "--quiet"]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert message in told.err
        assert len(told.err.splitlines()) == 1


def test_a_set_is_filtered_and_described(export: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "in.jsonl").write_text('["i03"]\n["new"]\n["i10", "i11"]\n')
    asked = ["recommend", str(export), "--in", str(tmp_path / "in.jsonl"), "--where", "in_stock; price > 12"]
    assert _guarded([*asked, "-k", "2", "--attributes", "--quiet"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["key"] for row in rows] == [["i14", "i16"], ["i20", "i18"], ["i14", "i16"]]
    assert rows[0]["attributes"][0] == {"category": "Shelf", "price": 14}
    assert rows[1]["notes"][-1] == "these are the items with most clicks"
    out = tmp_path / "out.parquet"
    assert (
        _guarded([*asked, "--out", str(out), "--fields", "row,id,attributes,passing,notes", "--quiet"]) == 0
    )
    table = pl.read_parquet(out)
    assert table["passing"].to_list() == [4, 4, 4]
    assert json.loads(table["attributes"][0][0]) == {"category": "Shelf", "price": 14}
    before = out.read_bytes()
    (tmp_path / "stock.txt").write_text("i19\n")  # another stock, another set
    asked += ["--filter", f"in_stock={tmp_path / 'stock.txt'}"]
    assert _guarded([*asked, "--out", str(out), "--fields", "id", "--quiet"]) == 0
    assert pl.read_parquet(out)["id"].to_list() == [[19], [19], [19]]
    assert out.read_bytes() != before


def test_items_of_one_title_are_shown_with_their_keys(tmp_path: Path, capsys: Output) -> None:
    folder = toy_export(tmp_path / "onnx")
    catalogue = json.loads((folder / ITEMS).read_text())
    catalogue["title"][4] = catalogue["title"][3] = 'A "B" | C'
    recommender = ExportedRecommender.load(folder)
    recommender.catalogue.titles[3:5] = catalogue["title"][3:5]
    again = ExportedRecommender(recommender.artefact)
    show_recommendation(again.recommend("i03", k=3), again.titles.repeated)
    shown = capsys.readouterr().out
    assert 'A "B" | C [i04]' in shown
    assert 'A "B" | C [i05]' in shown
    assert "Black Mirror (1994)" not in shown
    found = again.recommend('A "B" | C | i03')
    assert [one.id for one in found.session] == [4, 3]
    show_recommendation(found, again.titles.repeated)
    assert 'taken for A "B" | C [i04] (title)' in capsys.readouterr().out


def test_rows_of_a_set_have_filters_of_their_own(export: Path, tmp_path: Path, capsys: Output) -> None:
    rows = [
        {"session": ["i03"], "without": ["i04", 5]},
        {"session": ["i03"], "where": "price > 12", "only": "i13, i14,i15"},
        {"session": ["i03"], "where": ["price >"]},
        {"session": ["i03"], "without": None},
        {"session": ["i03"], "where": "category = Lamps"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "in.csv").write_text('session,without\ni03,"i04,i06"\ni03,"[""i04"", 8]"\ni03,\n')
    asked = ["recommend", str(export), "--where", "in_stock", "-k", "2", "--fields", "key,error,notes"]
    assert _guarded([*asked, "--in", str(tmp_path / "in.jsonl")]) == 2
    told = capsys.readouterr()
    found = [json.loads(line) for line in told.out.splitlines()]
    keys = [row["key"] for row in found]
    # the second row's conditions take the place of the command's, so that it may have i13
    assert keys == [["i06", "i08"], ["i13", "i14"], None, ["i04", "i06"], []]
    assert "expected a value" in found[2]["error"]
    assert "row 3: where: 'price >': expected a value" in told.err
    assert found[4]["notes"] == ["no item passes category = Lamps; did you mean 'Lamp'?"]
    assert _guarded([*asked, "--in", str(tmp_path / "in.csv"), "--quiet"]) == 0
    found = [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()]
    assert found == [["i08", "i10"], ["i06", "i10"], ["i04", "i06"]]
