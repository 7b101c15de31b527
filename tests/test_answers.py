from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llm4sbr.asking.cache import AT_ONCE, Answer, AnswerCache, answer_key
from llm4sbr.errors import StoreError

HELLO = Answer("héllo\n", 0.5, 7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "answers.sqlite"


def test_answers_come_back_in_a_second_process_life(path):
    with AnswerCache.open(path) as cache:
        cache.put_many({b"a": HELLO, b"b": Answer("", 0.0, 0)})
    with AnswerCache.open(path) as cache:
        assert cache.get_many([b"b", b"a", b"c"]) == {b"a": HELLO, b"b": Answer("", 0.0, 0)}
        assert len(cache) == 2


def test_more_keys_than_one_query_holds(path):
    many = {index.to_bytes(4, "big"): Answer(str(index), 0.0, index) for index in range(2 * AT_ONCE + 3)}
    with AnswerCache.open(path) as cache:
        cache.put_many(many)
        assert cache.get_many(list(many)) == many


def test_the_first_answer_stays(path):
    with AnswerCache.open(path) as cache:
        cache.put_many({b"a": HELLO})
        cache.put_many({b"a": Answer("other", 1.0, 1), b"b": HELLO})
        assert cache.get_many([b"a", b"b"]) == {b"a": HELLO, b"b": HELLO}


def test_keys_tell_fingerprint_and_prompt_apart():
    assert answer_key("ab", "c") != answer_key("a", "bc")
    assert answer_key("a", "b") == answer_key("a", "b")
    assert len(answer_key("a", "b")) == 32


def test_a_damaged_file_is_one_line_that_says_what_to_do(path):
    with AnswerCache.open(path) as cache:
        cache.put_many({bytes([i]): Answer("x" * 900, 0.0, 0) for i in range(200)})
    path.write_bytes(path.read_bytes()[:5000] + b"\x00" * 40_000)
    with pytest.raises(
        StoreError, match=r"answers\.sqlite: not a whole answer cache .*; move it away"
    ) as caught:
        AnswerCache.open(path).get_many([bytes([i]) for i in range(200)])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database(path):
    path.parent.mkdir()
    path.write_text("session,item\n" * 100)
    with pytest.raises(StoreError, match=r"not a whole answer cache \(file is not a database\)"):
        AnswerCache.open(path)
    assert path.read_text() == "session,item\n" * 100


def test_another_programs_database_is_left_alone(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program's database"):
        AnswerCache.open(path)
    assert path.read_bytes() == before


def test_a_cache_of_a_newer_version_is_refused(path):
    AnswerCache.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StoreError, match="an answer cache of version 9"):
        AnswerCache.open(path)


def test_a_full_disk_is_one_line_and_keeps_what_was_there(path):
    with AnswerCache.open(path) as cache:
        cache.put_many({b"a": HELLO})
        cache._connection.execute("PRAGMA max_page_count = 4")  # SQLite's own way to be full
        with pytest.raises(StoreError, match="no space left for the answer cache; free some and run again"):
            cache.put_many({bytes([i]): Answer("x" * 4000, 0.0, 0) for i in range(50)})
        assert cache.get_many([b"a", bytes([0])]) == {b"a": HELLO}


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make the answer cache"):
        AnswerCache.open(tmp_path / "file" / "answers.sqlite")
    with pytest.raises(StoreError, match="cannot use the answer cache"):
        AnswerCache.open(tmp_path)


WRITER = """
import sys
from pathlib import Path
from llm4sbr.asking.cache import Answer, AnswerCache
name = sys.argv[2]
with AnswerCache.open(Path(sys.argv[1])) as cache:
    for i in range(60):
        cache.put_many({f"{name}{i}".encode(): Answer(name, 0, 0), f"shared{i}".encode(): Answer(name, 0, 0)})
"""


def test_several_processes_write_at_once(path):
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name], env=os.environ) for name in "abc"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    with AnswerCache.open(path) as cache:
        assert len(cache) == 4 * 60
