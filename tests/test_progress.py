from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from llm4sbr import progress
from llm4sbr.progress import Progress


def plain() -> tuple[Progress, io.StringIO]:
    stream = io.StringIO()
    return Progress(console=Console(file=stream, soft_wrap=True)), stream


class Clock:
    """Stands for the monotonic clock; the test moves it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_without_a_terminal_there_are_plain_lines_now_and_then(clock: Clock) -> None:
    said, stream = plain()
    with said.task("infer", 100, unit="prompts") as advance:
        for _ in range(10):
            clock.now += 4
            advance(10, "3 cached")
    assert stream.getvalue().splitlines() == [
        # every third step is the first one 10 s after the last line: 30 done in 12 s leave 70, 28 s
        "infer: 30/100, 2.5 prompts/s, 28.0s left, 3 cached",
        "infer: 60/100, 2.5 prompts/s, 16.0s left, 3 cached",
        "infer: 90/100, 2.5 prompts/s, 4.0s left, 3 cached",
        "infer: 100 prompts in 40.0s",
    ]


def test_hundredths_are_shown_as_the_units_they_belong_to(clock: Clock) -> None:
    said, stream = plain()
    with said.task("experiment", 500, unit="cells", parts=100) as advance:
        for hundredths in (40, 200, 260):
            clock.now += 120
            advance(hundredths, "a cell")
    assert stream.getvalue().splitlines() == [
        "experiment: 0.4/5, a cell",  # one report tells no rate
        "experiment: 2.4/5, 1.0 cells/min, 2m36s left, a cell",  # 2 cells in 2 minutes, 2.6 are left
        "experiment: 5 cells in 6m00s",
    ]


def test_what_may_end_early_says_so_until_a_better_total_is_known(clock: Clock) -> None:
    said, stream = plain()
    with said.task("train", 100, unit="samples", at_most=True) as advance:
        clock.now += 5
        advance(5)
        clock.now += 5
        advance(5)
        advance(0, total=40)
        clock.now += 10
        advance(10)
        clock.now += 20
        advance(20)
    assert stream.getvalue().splitlines() == [
        "train: 10/100, 1.0 samples/s, at most 1m30s left",
        "train: 20/40, 1.0 samples/s, 20.0s left",
        "train: 40 samples in 40.0s",
    ]


def test_start_up_and_what_a_cache_has_are_no_measure_of_what_is_left(clock: Clock) -> None:
    said, stream = plain()
    with said.task("train", 10_100, unit="samples", at_most=True) as advance:
        clock.now += 60
        advance(100)
        clock.now += 10
        advance(1_000)
    with said.task("infer", 1_000, unit="prompts") as advance:
        advance(900, "900 cached")
        clock.now += 20
        advance(20)
    assert [line for line in stream.getvalue().splitlines() if "left" in line] == [
        "train: 1,100/10,100, 100 samples/s, at most 1m30s left",
        "infer: 920/1,000, 1.0 prompts/s, 1m20s left, 900 cached",
    ]


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [(25, 2, "12 x/s"), (1, 10, "0.1 x/s"), (1, 60, "1.0 x/min"), (1, 3600, "1.0 x/h"), (0, 5, "0.0 x/h")],
)
def test_rates_are_by_a_span_in_which_something_happens(done: float, seconds: float, text: str) -> None:
    assert progress._rate(done, seconds, "x") == text


def test_a_failure_inside_passes_and_claims_no_end() -> None:
    said, stream = plain()

    def fails() -> None:
        with said.task("train", 3) as advance:
            advance()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert stream.getvalue() == ""


def test_notes_keep_brackets_and_long_lines() -> None:
    said, stream = plain()
    line = "train: [bold] is no markup " + "x" * 200
    said.note(line)
    assert stream.getvalue() == line + "\n"


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    said = Progress(quiet=True)
    said.note("hidden")
    with said.task("hidden", 2) as advance:
        advance()
        advance(1, "hidden")
    assert capfd.readouterr() == ("", "")


def test_nothing_to_do_says_nothing() -> None:
    said, stream = plain()
    with said.task("empty", 0) as advance:
        advance(0)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_away_and_one_line_that_stays() -> None:
    stream = io.StringIO()
    said = Progress(console=Console(file=stream, force_terminal=True, width=100))
    with said.task("train", 4, unit="samples") as advance:
        advance(3, "loss 0.5")
    shown = stream.getvalue()
    assert "3/4" in shown
    assert "loss 0.5" in shown
    assert shown.rstrip().splitlines()[-1].endswith("s")
    assert "train: 3 samples in 0." in shown


def test_a_task_inside_a_task_in_a_terminal() -> None:
    said = Progress(console=Console(file=io.StringIO(), force_terminal=True, width=100))
    with said.task("outer", 1) as outer, said.task("inner", 1) as inner:
        inner()
        outer()


def test_everything_goes_to_standard_error() -> None:
    code = """
from llm4sbr.progress import Progress
p = Progress()
p.note("a note " + "x" * 200)
with p.task("work", 1) as advance:
    advance()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "a note " + "x" * 200
    assert done.stderr.splitlines()[1].startswith("work: 1 in ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (59.94, "59.9s"), (59.96, "1m00s"), (61, "1m01s"), (3599.6, "1h00m"), (7260, "2h01m")],
)
def test_times_read_like_a_clock(seconds: float, text: str) -> None:
    assert progress._clock(seconds) == text
