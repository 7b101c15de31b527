from __future__ import annotations

import gzip
import json
import sqlite3

import pytest

from llm4sbr.asking import cache as module
from llm4sbr.asking.cache import Answer, AnswerCache, answer_key
from llm4sbr.asking.exchange import export_answers, import_answers
from llm4sbr.errors import DataError

ONE, TWO = answer_key("m1", "p"), answer_key("m2", "p")


@pytest.fixture
def cache(tmp_path):
    with AnswerCache.open(tmp_path / "a.sqlite") as opened:
        opened.put_many({ONE: Answer("Lamp\n“x”", 0.5, 7)}, llm="m1, greedy", added=1000.0)
        opened.put_many({TWO: Answer("", 1.5, 0)}, llm="m2, greedy", added=2000.0)
        yield opened


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_what_is_exported_is_imported_elsewhere(cache, tmp_path, name):
    assert export_answers(cache, tmp_path / name) == 2
    with AnswerCache.open(tmp_path / "b.sqlite") as other:
        assert import_answers(other, tmp_path / name) == (2, 2)
        assert list(other.rows()) == list(cache.rows())
        assert import_answers(other, tmp_path / name) == (2, 0)


def test_one_llm_only(cache, tmp_path):
    assert export_answers(cache, tmp_path / "out.jsonl", llm="m2") == 1
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line == {
        "key": TWO.hex(),
        "llm": "m2, greedy",
        "answer": "",
        "seconds": 1.5,
        "tokens": 0,
        "added": 2000.0,
    }


def test_a_known_answer_is_not_replaced(cache, tmp_path):
    export_answers(cache, tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text().replace("Lamp", "Poison")
    (tmp_path / "out.jsonl").write_text(text)
    assert import_answers(cache, tmp_path / "out.jsonl") == (2, 0)
    assert cache.get_many([ONE])[ONE].text == "Lamp\n“x”"


GOOD = {"key": ONE.hex(), "llm": "m", "answer": "x", "seconds": 1.0, "tokens": 1, "added": 1.0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ("[]", "key: None"),
        (json.dumps(GOOD | {"key": "abc"}), "64 hex digits"),
        (json.dumps(GOOD | {"answer": 3}), "answer: 3"),
        (json.dumps(GOOD | {"tokens": True}), "tokens: True"),
        (json.dumps(GOOD | {"tokens": 10**30}), "tokens"),
        (json.dumps(GOOD | {"seconds": float("nan")}), "seconds: nan"),
        (json.dumps(GOOD | {"answer": "half \ud800"}), "answer: 'half"),
        (json.dumps(GOOD | {"llm": "\udfff"}), "llm: "),
        (json.dumps(GOOD | {"answer": ["x" * 900_000]}), r"answer: \['x{70,80} is not usable"),
        ("x" * 1_000_001, "longer than .*; no answer was added"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_added(tmp_path, line, message):
    (tmp_path / "in.jsonl").write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with AnswerCache.open(tmp_path / "b.sqlite") as cache:
        with pytest.raises(DataError, match=message) as caught:
            import_answers(cache, tmp_path / "in.jsonl")
        assert "in.jsonl:2" in str(caught.value)
        assert len(cache) == 0


WRONG = gzip.compress(b"{}" * 99_999)[:10] + b"\xff" * 50


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8b broken", gzip.compress(b"{}" * 99_999)[:50], b"\xff\xfe{", WRONG],
    ids=["no gzip", "cut gzip", "no text", "wrong deflate"],
)
def test_a_broken_archive_is_one_line(tmp_path, content):
    (tmp_path / "in.jsonl.gz").write_bytes(content)
    with AnswerCache.open(tmp_path / "b.sqlite") as cache, pytest.raises(DataError, match=r"in\.jsonl\.gz"):
        import_answers(cache, tmp_path / "in.jsonl.gz")


def test_stats_and_prune(cache):
    assert [(one.llm, one.answers, one.seconds, one.last) for one in cache.stats()] == [
        ("m1, greedy", 1, 0.5, 1000.0),
        ("m2, greedy", 1, 1.5, 2000.0),
    ]
    assert cache.prune(before=1500.0, dry=True) == 1
    assert len(cache) == 2
    assert cache.prune(llm="m2", before=1500.0) == 0
    assert cache.prune(before=1500.0) == 1
    assert [row[0] for row in cache.rows()] == [TWO]


def test_a_cache_of_version_1_is_brought_up_to_date(tmp_path):
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {module.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL, "
            "seconds REAL NOT NULL, tokens INTEGER NOT NULL) WITHOUT ROWID"
        )
        connection.execute("INSERT INTO answers VALUES (?, 'x', 1.0, 2)", (ONE,))
    connection.close()
    for _ in range(2):
        with AnswerCache.open(path) as cache:
            assert cache.get_many([ONE]) == {ONE: Answer("x", 1.0, 2)}
            assert [one.llm for one in cache.stats()] == [""]
