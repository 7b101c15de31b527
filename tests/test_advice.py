"""Every advice about data is followed to the letter: it leads, step by step, to an input that is accepted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from llm4sbr.cli import _guarded
from llm4sbr.testing.toy import toy_log

ADVICE = re.compile(r"(?:--(?:set|dataset|sessions) (?:[\w.\-]+=(?:'[^']*'|[^\s;,)]*)|[\w\-]+)(?: (?=--))?)+")
"""What a message tells to add to the command; several options that follow each other belong together."""

SMALL = ("--set", "data.min_item_count=1")


class Case:
    """A log, the command's further arguments, and what stands for COLUMN and FILE."""

    def __init__(self, folder: Path) -> None:
        self.folder = toy_log(folder)
        self.data = self.folder
        self.reader = "csv"
        self.more: list[str] = list(SMALL)
        self.means: dict[str, str] = {}
        self.clicks, self.items = self.folder / "interactions.csv", self.folder / "items.csv"

    def change(self, file: Path, old: str, new: str, count: int = 1) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, count))

    def without_header(self, file: Path) -> None:
        file.write_text(file.read_text().partition("\n")[2])


def other_names(case: Case) -> None:
    case.change(case.clicks, "user_id", "who")
    case.means = {"COLUMN": "who"}


def other_item(case: Case) -> None:
    case.change(case.clicks, "item_id", "what")
    case.means = {"COLUMN": "what"}


def other_time(case: Case) -> None:
    case.change(case.clicks, "timestamp", "moment")
    case.means = {"COLUMN": "moment"}


def other_item_in_the_items(case: Case) -> None:
    case.change(case.items, "item_id", "key")
    case.means = {"COLUMN": "key"}


def other_title(case: Case) -> None:
    case.change(case.items, "title", "headline")
    case.means = {"COLUMN": "headline"}


def no_header(case: Case) -> None:
    rows = ["u1,3,1700000000", "u1,4,1700000001", "u2,3,1700000500", "u2,4,1700000600"] * 1
    case.clicks.write_text("".join(f"{row}\n" for row in rows))
    case.more += ["--set", "data.options.titles=false", "--set", "data.split=random"]
    case.more += ["--set", "data.valid=0", "--set", "data.test=0.5"]


def no_items(case: Case) -> None:
    case.items.rename(case.folder / "films.csv")
    case.means = {"FILE": "films.csv"}


def quotes(case: Case) -> None:
    case.change(case.items, "Red Lamp (1990)", '"Red" Lamp')


def latin(case: Case) -> None:
    case.items.write_bytes(case.items.read_bytes().replace(b"Red Lamp", "Lampe dorée".encode("latin-1"), 1))


def dates(case: Case) -> None:
    rows = case.clicks.read_text().splitlines()
    days = [f"{row.rpartition(',')[0]},{1 + n % 28:02}.05.2024 10:00" for n, row in enumerate(rows[1:])]
    case.clicks.write_text("\n".join([rows[0], *days]) + "\n")
    case.more += ["--sessions", "user"]


def days(case: Case) -> None:
    rows = case.clicks.read_text().splitlines()
    counted = [f"{row.rpartition(',')[0]},{n}" for n, row in enumerate(rows[1:])]
    case.clicks.write_text("\n".join([rows[0], *counted]) + "\n")
    case.more += ["--sessions", "user"]


def no_order(case: Case) -> None:
    case.change(case.clicks, "timestamp", "timestamp,place")
    case.clicks.write_text(re.sub(r"(\d)$", r"\1,first", case.clicks.read_text(), flags=re.MULTILINE))
    case.more += ["--set", "data.options.order=place"]


def restarting(case: Case) -> None:
    rows = [
        f"{session},i{1 + (session + k) % 9:02},{1_700_000_000 + day * 86_400 + session * 600 + k}"
        for day in range(9)
        for session in range(9)
        for k in range(4)
    ]
    case.clicks.write_text("\n".join(["session_id,item_id,timestamp", *rows]) + "\n")


def rare(case: Case) -> None:
    case.more = ["--set", "data.min_item_count=400"]


def json_lines(case: Case) -> None:
    lines = [
        json.dumps({"session": f"s{n}", "items": ["i01", "i02", "i03"], "time": 1_700_000_000 + n * 9000})
        for n in range(30)
    ]
    case.data = case.folder / "clicks.json"
    case.data.write_text("\n".join(lines) + "\n")


def no_clock(case: Case) -> None:
    case.more += ["--set", "data.split=temporal"]
    case.change(case.clicks, "timestamp", "order")


def m2(case: Case) -> None:
    rows = ["['i01' 'i02'],i03,UK", "['i02'],i04,UK", "['i03' 'i04'],i05,UK"] * 5
    case.clicks.unlink()
    case.data = case.folder / "sessions_train.csv"
    case.data.write_text("prev_items,next_item,locale\n" + "\n".join(rows) + "\n")
    case.means = {"FILE": "items.csv"}


def parts(case: Case) -> None:
    case.clicks.unlink()
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float\n"
    for part, start in (("train", 0), ("test", 50)):
        rows = [f"u{n}\ti01 i02\ti03\t{1_700_000_000 + n * 9000}\n" for n in range(start, start + 40)]
        (case.folder / f"toy.{part}.inter").write_text(head + "".join(rows))
    case.means = {"FILE": "items.item"}
    (case.folder / "items.item").write_text("item_id:token\ttitle:token_seq\ni01\tA\ni02\tB\n")


def gap_without_times(case: Case) -> None:
    case.change(case.clicks, "timestamp", "order")
    case.more += ["--sessions", "gap"]


def gap_without_users(case: Case) -> None:
    case.change(case.clicks, "user_id", "session_id")
    case.more += ["--sessions", "gap"]


def no_sessions(case: Case) -> None:
    case.more += ["--sessions", "session"]


def two_reviews(case: Case) -> None:
    case.reader = "amazon"
    for name in ("a", "b"):
        rows = [
            {"reviewerID": f"u{n % 30}", "asin": f"i{n % 7}", "unixReviewTime": 1_700_000_000 + n * 1000}
            for n in range(200)
        ]
        (case.folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (case.folder / "meta_a.jsonl").write_text('{"asin": "i1", "title": "Lamp"}')
    case.clicks.unlink()
    case.items.unlink()
    case.means = {"FILE": "a.jsonl"}
    case.more += ["--sessions", "user"]


def no_news(case: Case) -> None:
    case.reader = "mind"
    rows = [f"{n}\tu{n % 30}\t11/{1 + n % 28:02}/2019 8:30:00 AM\ti1 i2\ti{n % 7}-1\n" for n in range(200)]
    (case.folder / "behaviors.tsv").write_text("".join(rows))
    (case.folder / "texts.tsv").write_text("i1\tnews\tlocal\tLamp\t\thttp://x\t[]\t[]\n")
    case.means = {"FILE": "texts.tsv"}


def ties(case: Case) -> None:
    case.change(case.clicks, "timestamp", "timestamp,place")
    text = re.sub(r",(\d{10})$", r",1000000000,\1", case.clicks.read_text(), flags=re.MULTILINE)
    case.clicks.write_text(text)
    case.means = {"COLUMN": "place"}
    case.more += ["--sessions", "user", "--set", "data.split=random"]


CASES = (
    (other_names, 1),
    (other_item, 1),
    (other_time, 1),
    (other_item_in_the_items, 1),
    (other_title, 1),
    (no_header, 2),
    (no_items, 2),
    (quotes, 1),
    (latin, 1),
    (dates, 1),
    (days, 1),
    (no_order, 1),
    (restarting, 1),
    (rare, 2),
    (json_lines, 2),
    (no_clock, 3),
    (gap_without_times, 1),
    (gap_without_users, 1),
    (no_sessions, 3),
    (two_reviews, 1),
    (no_news, 2),
    (m2, 1),
    (parts, 1),
    (ties, 1),
)


def prepare(case: Case, run: Path, advised: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code, and the error or else all that was said."""
    given = {"--dataset": case.reader} | dict(zip(advised[::2], advised[1::2], strict=True))
    command = ["prepare", str(run), "--data", str(case.data), "--dataset", given["--dataset"], *case.more]
    capsys.readouterr()
    code = _guarded([*command, *advised])
    said = capsys.readouterr().err
    return code, said.splitlines()[-1] if code else said


def advice_of(case: Case, message: str) -> list[str]:
    found = list(dict.fromkeys(one[0].strip() for one in ADVICE.finditer(message)))
    for word, meaning in case.means.items():
        found = [text.replace(word, meaning) for text in found]
    return found


def leads_to_acceptance(
    case: Case,
    run: Path,
    message: str,
    advised: list[str],
    seen: list[str],
    capsys: pytest.CaptureFixture[str],
) -> bool:
    """Whether an advice of `message`, or of what is said then, ends well; none may go in a circle."""
    accepted = False
    for number, text in enumerate(advice_of(case, message)):
        more, there = [*advised, *shlex.split(text)], run.with_name(f"{run.name}{number}")
        code, then = prepare(case, there, more, capsys)
        assert code in (0, 2), then
        assert not code or then not in seen, f"{text}: the same message again: {then}"
        assert "has no option" not in then, then
        assert "no such setting" not in then, then
        accepted |= not code or leads_to_acceptance(case, there, then, more, [*seen, then], capsys)
    return accepted


@pytest.mark.parametrize(("make", "count"), CASES, ids=[make.__name__ for make, _ in CASES])
def test_advice_is_followed_to_the_letter(
    tmp_path: Path, make: Callable[[Case], None], count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(tmp_path / "log")
    make(case)
    code, message = prepare(case, tmp_path / "run", [], capsys)
    assert len(advice_of(case, message)) == count, message
    if count and code:
        assert leads_to_acceptance(case, tmp_path / "run", message, [], [message], capsys)
    for text in advice_of(case, message) if not code else []:  # a doubt: what it advises takes it away
        again, said = prepare(case, tmp_path / "other", shlex.split(text), capsys)
        assert again == 0, said
        assert text not in said
