"""`llm4sbr recommend --in --out`: whole sets of sessions, broken rows, and interrupted commands."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from llm4sbr.cli import _guarded
from llm4sbr.errors import InputError
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.sets import read, work
from llm4sbr.testing.toy_export import toy_export

SESSIONS = [["i02"], ["i03", "i04"], ["i07", "i01", "i05"]]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_export(tmp_path_factory.mktemp("exports") / "onnx")


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def ask(export: Path, capsysbinary, monkeypatch):
    """Calls the command in this process."""

    def call(*arguments: object, given: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = _guarded(["recommend", str(export), *map(str, arguments)])
        out, err = capsysbinary.readouterr()
        return Said(code, out.decode(), err.decode())

    return call


def write(path: Path, sessions: list[list[str]]) -> Path:
    users = [f"u{number}" for number in range(len(sessions))]
    if path.suffix == ".parquet":
        pl.DataFrame({"user": users, "session": sessions}).write_parquet(path)
    elif path.suffix == ".csv":
        rows = [f'{user},"{",".join(one)}"' for user, one in zip(users, sessions, strict=True)]
        path.write_text("\n".join(["user,session", *rows]) + "\n")
    else:
        rows = [json.dumps({"user": u, "session": s}) for u, s in zip(users, sessions, strict=True)]
        path.write_text("\n".join(rows) + "\n")
    return path


def lists_in(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    rows = pl.read_csv(path, infer_schema=False).to_dicts()
    return [row | {"key": json.loads(row["key"]), "score": json.loads(row["score"])} for row in rows]


@pytest.mark.parametrize("source", read.FORMATS)
@pytest.mark.parametrize("target", read.FORMATS)
def test_every_format_has_the_lists_of_recommend(ask, export, tmp_path, source, target):
    given, out = write(tmp_path / f"in{source}", SESSIONS), tmp_path / f"out{target}"
    told = ask("--in", given, "--out", out, "-k", 3, "--fields", "user,key,score", "--quiet")
    assert told == (0, "", "")
    recommender = ExportedRecommender.load(export)
    expected = [recommender.recommend(one, k=3).items for one in SESSIONS]
    assert lists_in(out) == [
        {"user": f"u{row}", "key": [one.key for one in items], "score": [one.score for one in items]}
        for row, items in enumerate(expected)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([given.name, out.name])


def test_standard_input_to_standard_output_names_broken_rows_and_what_is_unknown(ask):
    lines = '["i02"]\n\n["i03", "newer"]\n[1.5]\n[]\n{"other": 1}\n\xff'
    told = ask("--in", "-", "-k", 1, given=lines.encode("latin-1"))
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    assert told.exit_code == 2
    assert [(row["row"], row["key"], row["left_out"]) for row in rows[:2]] == [
        (1, ["i03"], []),
        (3, ["i04"], ["newer"]),
    ]
    assert [row["row"] for row in rows[2:]] == [4, 5, 6, 7]
    for row in rows[2:]:
        assert row["key"] is None
        assert f"row {row['row']}: {row['error']}\n" in told.stderr
    assert rows[5]["error"] == "not UTF-8 from byte 0 on"


def test_a_broken_row_of_csv_is_named_and_the_others_are_answered(ask, tmp_path):
    text = b'user;session\nann;i02\nbob\n\xff;i03\neve;"a" b"\n\nkim;["i04"]\n'
    (tmp_path / "in.csv").write_bytes(text)
    found = ask("--in", tmp_path / "in.csv", "-k", 1, "--fields", "row,user,key,error")
    rows = {row["row"]: row for row in map(json.loads, found.stdout.splitlines())}
    assert found.exit_code == 2
    assert [rows[1]["key"], rows[5]["key"]] == [["i03"], ["i05"]]
    assert rows[2]["error"] == "1 cells, the header has 2"
    assert rows[3] == {"row": 3, "user": None, "key": None, "error": "not UTF-8"}
    assert rows[4]["error"].startswith("not CSV: ")


def test_many_broken_rows_are_not_all_told(ask, tmp_path):
    (tmp_path / "in.jsonl").write_text("[1.5]\n" * 30)
    told = ask("--in", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    assert told.stderr.count("a session is a text") == work.SAID
    assert "and 10 more rows have no list" in told.stderr
    assert len(lists_in(tmp_path / "out.jsonl")) == 30


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--in", "in.txt"], "its name ends with none of .jsonl, .csv, .parquet"),
        (["--in", "missing.jsonl"], "missing.jsonl: No such file"),
        (["--in", "in.csv", "--fields", "key,prize"], "no 'prize'; there are row"),
        (["--in", "in.csv", "--fields", "key,key"], "'key' is named twice"),
        (["--in", "in.csv", "--fields", ","], "none is named"),
        (["--in", "in.csv", "--out", "in.csv"], "is the file of sessions"),
        (["--in", "in.csv", "--out", "folder.csv"], "is a folder"),
        (["--in", "in.csv", "-k", "21"], "the exported list has 5 items"),
        (["--in", "in.csv", "--engine", "rya"], "no engine 'rya'"),
        (["--in", "in.csv", "--session", "i02"], "either --session, or --in"),
        ([], "either --session, or --in"),
        (["--in", "bare.csv"], "no column 'session'; it has 'a', 'b'"),
        (["--in", "broken.parquet"], "not a whole Parquet file"),
        (["--in", "number.parquet"], "session is Int64; expected texts, or lists"),
        (["--in", "in.jsonl", "--fields", "key,prize"], "no 'prize'; there are row"),
    ],
)
def test_bad_input_is_one_line(ask, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    write(Path("in.csv"), SESSIONS)
    write(Path("in.jsonl"), SESSIONS)
    Path("folder.csv").mkdir()
    Path("bare.csv").write_text("a,b\n1,2\n")
    Path("broken.parquet").write_bytes(b"PAR1")
    pl.DataFrame({"session": [1]}).write_parquet("number.parquet")
    before = sorted(tmp_path.iterdir())
    found = ask(*arguments)
    assert found.exit_code == 2
    assert told in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_finished_parts_are_not_computed_again(export, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK", 2)
    given, out = write(tmp_path / "in.jsonl", SESSIONS * 3), tmp_path / "out.parquet"
    asked: list[int] = []
    answer = ExportedRecommender.recommend_all

    def counted(self, sessions, **options):
        sessions = list(sessions)
        asked.append(len(sessions))
        if len(asked) == 4:  # the first call only checks the options
            raise KeyboardInterrupt
        return answer(self, sessions, **options)

    monkeypatch.setattr(ExportedRecommender, "recommend_all", counted)
    wanted = work.SessionSet(given, out)
    load = lambda: ExportedRecommender.load(export)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        work.recommend_set(wanted, load, work.Progress(quiet=True))
    assert not out.exists()
    given.write_text(given.read_text().replace("i02", "i09", 1))  # the first block changes
    assert work.recommend_set(wanted, load, work.Progress(quiet=True)) == {"rows": 9, "broken": 0}
    assert asked == [0, 2, 2, 2, 0, 2, 2, 2, 1]
    assert [row["key"][0] for row in lists_in(out)[:3]] == ["i10", "i05", "i06"]
    assert not out.with_name("out.parquet.parts").exists()


@pytest.mark.slow
def test_a_killed_command_goes_on_and_gives_the_same_file(export, tmp_path):
    given = write(tmp_path / "in.jsonl", SESSIONS * 30_000)
    command = [sys.executable, "-m", "llm4sbr", "recommend", str(export), "--in", str(given), "--quiet"]
    subprocess.run([*command, "--out", tmp_path / "whole.jsonl"], check=True)
    process = subprocess.Popen([*command, "--out", tmp_path / "out.jsonl"])
    while len(list(tmp_path.glob("out.jsonl.parts/*.jsonl"))) < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out.jsonl").exists()
    subprocess.run([*command, "--out", tmp_path / "out.jsonl"], check=True)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_an_open_set_is_refused_to_another_process(ask, tmp_path):
    given = write(tmp_path / "in.jsonl", SESSIONS)
    from llm4sbr import folders

    with folders.locked(tmp_path / "out.jsonl.parts", what="set"):
        found = ask("--in", given, "--out", tmp_path / "out.jsonl")
    assert (found.exit_code, "another llm4sbr process" in found.stderr) == (2, True)


def test_all_gives_the_error_of_a_bad_session_in_its_place(export):
    found = ExportedRecommender.load(export).recommend_all([["i02"], [], ["i19", "i20"] * 9], k=2)
    assert isinstance(found[1], InputError)
    assert [one.id for one in found[0].items + found[2].items] == [3, 4, 1, 2]
