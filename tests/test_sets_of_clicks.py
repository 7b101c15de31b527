"""`llm4sbr recommend --in`: files with a click per row."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.cli import _guarded
from llm4sbr.serving.sets import read
from llm4sbr.testing.toy_export import toy_export

Output = pytest.CaptureFixture[str]
CLICKS = [("a", "i02", "ann"), ("b", "i03", "bob"), ("b", "i04", "eve"), ("a", "i07", "ann")]
"""Session, item, user: three sessions, since `a` comes back."""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_export(tmp_path_factory.mktemp("exports") / "onnx")


def asked(export: Path, given: Path, capsys: Output, *more: str) -> tuple[int, list[dict], str]:
    code = _guarded(["recommend", str(export), "--in", str(given), "-k", "1", *more])
    said = capsys.readouterr()
    return code, [json.loads(line) for line in said.out.splitlines()], said.err


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_consecutive_clicks_are_a_session(export, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(read, "BLOCK", 2)  # sessions go on over blocks of rows
    table = pl.DataFrame(CLICKS, schema=["session", "item", "user"], orient="row")
    path = tmp_path / f"clicks.{kind}"
    table.write_csv(path) if kind == "csv" else table.write_parquet(path)
    code, rows, _ = asked(export, path, capsys)
    assert code == 0
    # after item i comes item i + 1
    assert [(row["row"], row["session"], row["key"]) for row in rows] == [
        (1, "a", ["i03"]),
        (2, "b", ["i05"]),
        (4, "a", ["i08"]),
    ]
    _, rows, _ = asked(export, path, capsys, "--fields", "user,key")
    assert [row["user"] for row in rows] == ["ann", "bob", "ann"]


def test_numbers_are_keys_and_unknown_items_are_left_out(export, tmp_path, capsys):
    """Item 2 of the catalogue has the key `i02`; the log's own item 2 is unknown."""
    path = tmp_path / "clicks.parquet"
    pl.DataFrame({"session": [7, 7, 8], "item": [2, 3, 4]}).write_parquet(path)
    code, rows, _ = asked(export, path, capsys, "--unknown", "fail")
    assert code == 2
    assert [row["error"] for row in rows] == ["no item is called '2'", "no item is called '4'"]
    pl.DataFrame({"session": [7, 7], "item": ["i02", "9"]}).write_parquet(path)
    code, rows, _ = asked(export, path, capsys)
    assert (code, rows[0]["session"], rows[0]["key"], rows[0]["left_out"]) == (0, 7, ["i03"], ["9"])


def test_a_broken_click_costs_no_other(export, tmp_path, capsys):
    path = tmp_path / "clicks.csv"
    path.write_text("session,item\na,i02\na\n,i05\na,\na,i03\nb,i04\n")
    code, rows, told = asked(export, path, capsys)
    assert code == 2
    assert {row["row"]: row["error"] for row in rows if row["error"]} == {
        2: "1 cells, the header has 2",
        3: "the click has no session",
        4: "the click has no item",
    }
    assert [(row["session"], row["key"]) for row in rows if not row["error"]] == [
        ("a", ["i04"]),
        ("b", ["i05"]),
    ]
    assert "row 4: the click has no item" in told


def test_items_that_are_no_keys_are_refused(export, tmp_path, capsys):
    path = tmp_path / "clicks.parquet"
    pl.DataFrame({"session": [1], "item": [0.5]}).write_parquet(path)
    assert asked(export, path, capsys)[0] == 2
    (tmp_path / "clicks.csv").write_text("item,time\ni02,1\n")
    code, _, told = asked(export, tmp_path / "clicks.csv", capsys)
    assert code == 2
    assert "no column 'session'" in told
