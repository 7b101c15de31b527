"""The load generator charges a server for everything that it makes wait."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm4sbr.testing.toy_export import toy_export

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import load

    return load


@pytest.fixture
def serving(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import serving

    return serving


@contextmanager
def stub(answer: Callable[[int], bytes]) -> Iterator[tuple[str, int]]:
    """A server that answers the n-th request of any connection with `answer(n)`; "" closes it."""
    count, lock = iter(range(10**6)), threading.Lock()

    def work(client: socket.socket) -> None:
        with client:
            while client.recv(65536):
                with lock:
                    text = answer(next(count))
                if not text:
                    return
                client.sendall(text)

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=work, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[:2]
        listening.shutdown(socket.SHUT_RDWR)


def test_the_schedule_has_the_rate_asked_for(load):
    due = load.poisson(1000, 10, seed=0)
    assert due == sorted(due)
    assert 9_600 < len(due) < 10_400  # four standard deviations of a Poisson count
    assert 0 < due[0] < due[-1] < 10


def test_a_stall_counts_for_every_request_that_was_due_in_it(load):
    def answer(number: int) -> bytes:
        if number == 10:
            time.sleep(0.5)
        return GOOD

    with stub(answer) as address:
        result = load.offer(address, [b"x"], rate=200, seconds=1, most=16)
    assert result.errors == 0
    assert len(result.latencies) == len(load.poisson(200, 1, seed=0))
    assert sum(one > 0.1 for one in result.latencies) > 40  # 16 connections alone could tell of 16
    assert result.quantile(0.1) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", [GOOD.replace(b"200", b"429"), b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_what_is_no_good_answer_is_an_error(load, text):
    with stub(lambda _: text) as address:
        result = load.offer(address, [b"x"], rate=50, seconds=0.4)
    assert (len(result.latencies), result.errors) == (0, len(load.poisson(50, 0.4, seed=0)))
    assert result.as_dict()["p90"] is None


def test_answers_that_come_in_parts(load):
    with stub(lambda _: GOOD) as address:
        connection = load._Connection(address)
        connection.send(b"x", 0.0)
        time.sleep(0.1)
        assert connection.receive() == 200
        connection.socket.close()


def test_the_search_finds_the_limits(load, serving):
    tried = []

    def measure(rate: float):
        tried.append(rate)
        return load.LoadResult(rate, 1, [rate / 100_000] * 10, int(rate > 3000))  # 7 ms at 700, 50 ms never

    found = serving.search(measure, most=6400, refine=4)
    assert 600 < serving.highest(found, 0.007) <= 700
    assert 2700 < serving.highest(found, 0.05) <= 3000
    assert len(tried) < 20
    assert serving.highest(found, 0.0001) == 0


@pytest.mark.slow
def test_a_live_server_is_measured(serving, tmp_path, monkeypatch):
    import serving_tables

    given = ["--seconds", "0.3", "--max-rate", "100", "--refine", "1", "--endpoint", "recommend"]
    given += ["--sizes", "20", "--sustain", "50", "--sustain-seconds", "0.3", "--sustain-sizes", "20"]
    options = serving.arguments(given)
    row = serving.contestant(toy_export(tmp_path), 20, options, lambda _: None)
    assert json.loads(json.dumps(row)) == row
    assert [one["rate"] for one in row["steps"]][:1] == [50]
    assert all(one["errors"] == 0 for one in row["steps"])
    assert row["sustained"]["requests"] > 0
    assert row["sustained"]["sessions_per_batch"] >= 1
    assert row["server_peak_memory"] > 2**24
    rows = [row | {"precision": "fp32", "load": 0.5}]
    rows.append(rows[0] | {"items": 30, "sustained": row["sustained"] | {"p50": None, "errors": 7}})
    found = serving.about(options) | {"model": "toy", "rows": rows}
    monkeypatch.setattr("tables.RESULTS", tmp_path)
    assert serving_tables.serving_section() == "Not measured yet."
    (tmp_path / "serving.json").write_text(json.dumps(found))
    text = serving_tables.serving_section()
    assert text.count("| 20 | fp32 |") == 1
    assert text.endswith("| 50/s: nothing was answered, 7 |")


def test_rows_are_kept_as_they_are_measured(serving, tmp_path, monkeypatch):
    """A measurement that is cut short has lost the row it was at, not the others."""

    def contestant(folder, items, options, say):
        if items == 30:
            raise KeyboardInterrupt
        return {"items": items}

    monkeypatch.setattr(serving, "contestant", contestant)
    for items in (20, 30):
        toy_export(tmp_path / f"{items}-fp32")
    given = ["--sizes", "20,30", "--precisions", "fp32", "--artefacts", str(tmp_path)]
    options = serving.arguments([*given, "--json", str(tmp_path / "found.json")])
    with pytest.raises(KeyboardInterrupt):
        serving.results(options, lambda _: None)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(row["items"], row["precision"]) for row in found["rows"]] == [(20, "fp32")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "reached, 3.2 ms"),
        ({"good": False, "p90": 7.1}, "MISSED, 7.1 ms"),
        ({"good": False, "p90": None}, "MISSED, - ms"),
    ],
    ids=["reached", "too slow", "no answer"],
)
def test_the_rate_to_reach_is_told_whether_it_was(serving, changes, said):
    from serving_tables import aims

    long = {"rate": 1000.0, "seconds": 60.0, "p90": 3.2, "good": True} | changes
    row = {"items": 100_000, "precision": "int8", "sustained": long}
    told = f"- 100,000 items, int8: 1,000/s for 60 s with p90 under 7 ms and without an error: {said}.\n\n"
    assert aims([row, row | {"sustained": long | {"rate": 50}}, {"items": 1}]) == told
