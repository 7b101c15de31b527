"""One server with several models: shares, keys that stay with a model, names, shadows."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm4sbr.errors import InputError
from llm4sbr.serving.server.http import Reply
from llm4sbr.serving.server.metrics import Metrics
from llm4sbr.serving.server.models import Models
from llm4sbr.serving.server.served import Served, parse_models
from llm4sbr.serving.server.settings import Settings
from llm4sbr.serving.server.shadow import WAITING, Shadows
from llm4sbr.serving.server.split import Split, parse_split, point
from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import toy_export


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A recommends the next item, B the third next, C the seventh next."""
    made = {
        name: toy_export(tmp_path_factory.mktemp("export"), step=step)
        for name, step in (("A", 1), ("B", 3), ("C", 7))
    }
    models = [f"{name}={folder}" for name, folder in made.items()]
    with live_server(models[0], *models[1:], "--split", "A=70,B=30", "--shadow", "C", "--watch", "0") as one:
        one.wait_for("model ready", count=3)
        yield one


def recommend(server: LiveServer, headers: dict[str, str] | None = None, **more: object) -> tuple[str, int]:
    found = server.ask("/recommend", {"session": [3], "k": 1, **more}, headers=headers).json
    return found["model_name"], found["items"][0]["id"]


def value(server: LiveServer, sample: str) -> float:
    lines = server.ask("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " "))


# Shares


def test_a_split_in_closed_form():
    """sha256("abc") begins with ba7816bf8f01: 0.728 of 2^48."""
    assert point("abc") == 0xBA7816BF8F01 / 2**48
    assert [Split({"A": a, "B": 1 - a}).choose("abc") for a in (0.72, 0.73)] == ["B", "A"]


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4).filter(any), st.text(min_size=1))
def test_a_key_always_gets_the_same_model_and_never_one_without_a_share(shares, key):
    named = {f"m{number}": float(share) for number, share in enumerate(shares)}
    chosen = Split(named).choose(key)
    assert named[chosen] > 0
    assert chosen == Split({name: 7 * share for name, share in named.items()}).choose(key)


def test_moving_a_share_moves_only_the_keys_between():
    before, after = Split({"A": 90, "B": 10}), Split({"A": 80, "B": 20})
    keys = [f"user {number}" for number in range(2000)]
    moved = Counter((before.choose(key), after.choose(key)) for key in keys)
    assert ("B", "A") not in moved
    assert 0.07 < moved["A", "B"] / len(keys) < 0.13
    assert 0.07 < moved["B", "B"] / len(keys) < 0.13


# Requests


def test_who_answers(server):
    by_key = {f"user {number}": Split({"A": 70, "B": 30}).choose(f"user {number}") for number in range(8)}
    assert set(by_key.values()) == {"A", "B"}
    first = {"A": 4, "B": 6}
    for key, name in by_key.items():
        assert recommend(server, sticky_key=key) == (name, first[name])
        assert recommend(server, {"X-Sticky-Key": key}) == (name, first[name])
    other = next(key for key, name in by_key.items() if name == "B")
    assert recommend(server, {"X-Sticky-Key": "user 0"}, sticky_key=other)[0] == "B"
    assert recommend(server, model="C", sticky_key=other) == ("C", 10)
    assert {recommend(server)[0] for _ in range(40)} == {"A", "B"}  # by chance: 1 in 1.5 million has one only


def test_each_by_its_name(server):
    assert server.ask("/v2/models").json == {"models": ["A", "B", "C"]}
    for name, first in (("A", 4), ("B", 6), ("C", 10)):
        told = server.ask(f"/v2/models/{name}").json
        assert told["name"] == name
        assert server.ask(f"/v2/models/{name}/ready").json == {"name": name, "ready": True}
        items = {"name": "items", "datatype": "INT64", "shape": [1, 1], "data": [3]}
        found = server.ask(f"/v2/models/{name}/infer", {"inputs": [items]}).json
        assert (found["model_name"], found["outputs"][0]["data"][0]) == (name, first)
    assert server.ask("/v2/models/D").json == {"error": "model 'D': unknown; this server has 'A', 'B', 'C'"}
    assert server.ask("/items?search=green&model=B").json["model_name"] == "B"


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ({"model": "D"}, 404, "model 'D': unknown; this server has 'A', 'B', 'C'"),
        ({"model": 3}, 404, "model 3: unknown"),
        ({"sticky_key": ""}, 400, "sticky_key: expected a text of 1 to 200 characters"),
        ({"sticky_key": 7}, 400, "sticky_key: expected a text"),
        ({"sticky_key": "x" * 201}, 400, "sticky_key: expected a text"),
    ],
)
def test_bad_choices(server, more, status, message):
    found = server.ask("/recommend", {"session": [3], **more})
    assert (found.status, found.json["error"][: len(message)]) == (status, message)


def test_metrics_by_model_and_route(server):
    counted = 'llm4sbr_requests_total{model="B",route="recommend",status="200"}'
    lasted = 'llm4sbr_request_seconds_count{model="B",route="recommend"}'
    before = value(server, counted)
    recommend(server, model="B")
    assert value(server, counted) == value(server, lasted) == before + 1
    assert value(server, 'llm4sbr_requests_total{model="",route="metrics",status="200"}') > 0


# Shadows


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_shadow_computes_what_others_answer(server):
    done = 'llm4sbr_shadow_total{model="C",result="done"}'
    shared = 'llm4sbr_shadow_shared_{}{{model="C"}}'
    before = [value(server, name) for name in (done, shared.format("count"), shared.format("sum"))]
    found = server.ask("/recommend", {"session": [3], "k": 5, "model": "A"}).json
    assert [one["id"] for one in found["items"]] == [4, 5, 6, 7, 8]  # C: 10, 17, 4, 11, 18
    until(lambda: value(server, done) == before[0] + 1)
    assert value(server, shared.format("count")) == before[1] + 1
    assert value(server, shared.format("sum")) == pytest.approx(before[2] + 0.2)


def test_a_shadow_that_is_broken_slow_or_late_touches_nobody(tmp_path):
    good, bad = toy_export(tmp_path / "good"), tmp_path / "bad"
    toy_export(bad, step=3)
    (bad / "model.onnx").write_bytes(b"none")
    with live_server(f"A={good}", f"B={bad}", "--shadow", "B", "--watch", "0.1") as server:
        assert "model.onnx" in server.wait_for("new version refused")["error"]
        assert recommend(server) == ("A", 4)
        assert server.ask("/v2/health/ready").status == 200
        assert server.ask("/v2/models/B/ready").status == 503
        until(lambda: value(server, 'llm4sbr_shadow_total{model="B",result="failed"}') == 1)
        toy_export(bad, step=3)  # mended
        server.wait_for("model ready", count=2)
        assert recommend(server) == ("A", 4)
        until(lambda: value(server, 'llm4sbr_shadow_total{model="B",result="done"}') == 1)
        assert server.stop() == 0


def test_what_a_slow_shadow_has_not_finished_is_bounded(tmp_path):
    metrics = Metrics()
    answered, shadow = (Models(tmp_path, Settings(name=name), metrics) for name in ("A", "B"))

    async def main() -> None:
        shadows, open_, begun = Shadows([shadow]), asyncio.Event(), Counter()

        async def work(models: Models) -> Reply:
            begun[models.name] += 1
            await open_.wait()
            return Reply(b"")

        for _ in range(WAITING + 8):
            shadows.follow(answered, Reply(b"{}"), work)
        shadows.follow(shadow, Reply(b"{}"), work)  # what the shadow answered itself
        assert shadow.metrics.shadowing == {"dropped": 8}
        await asyncio.sleep(0)
        assert begun == {"B": WAITING}
        open_.set()
        await asyncio.sleep(0.01)
        assert shadow.metrics.shadowing == {"dropped": 8, "done": WAITING}
        open_.clear()
        shadows.follow(answered, Reply(b"{}"), work)
        await shadows.stop()

    asyncio.run(main())


# Bad arguments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A", "'A': expected NAME=SHARE"),
        ("A=x", "'A=x': expected NAME=SHARE"),
        ("A=nan", "expected NAME=SHARE"),
        ("A=-1,B=2", "expected NAME=SHARE"),
        ("A=1,A=2", "A is named twice"),
        ("A=0,B=0", "every share is 0"),
        ("", "expected NAME=SHARE"),
    ],
)
def test_splits_that_are_none(text, message):
    with pytest.raises(InputError, match=message):
        parse_split(text)


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=y").mkdir()
    assert {name: str(path) for name, path in parse_models(["x=y"], "n").items()} == {"n": "x=y"}
    found = parse_models(["A=x=y", "B=b/c"], "n")
    assert {name: str(path) for name, path in found.items()} == {"A": "x=y", "B": "b/c"}
    assert list(parse_models(["b/c=d"], "n")) == ["n"]
    for texts, message in (
        (["A=x", "y"], "several models need names, such as A=y"),
        (["A=x", "A=y"], "A: two models have this name"),
        (["=x"], "expected NAME=PATH"),
        (["A="], "expected NAME=PATH"),
        (["A,B=x"], "the name without a comma"),
    ):
        with pytest.raises(InputError, match=message):
            parse_models(texts, "n")


@pytest.mark.parametrize(
    ("shares", "shadows", "message"),
    [
        ({"A": 1, "D": 2}, [], "'D': no such model; this server has A, B"),
        (None, ["D"], "'D': no such model"),
        (None, ["A", "B"], "--shadow A: answers; name another model beside it"),
        ({"A": 1, "B": 1}, ["B"], "--shadow B: answers"),
    ],
)
def test_servers_that_cannot_be(tmp_path, shares, shadows, message):
    models = {name: Models(tmp_path, Settings(name=name), Metrics()) for name in ("A", "B")}
    with pytest.raises(InputError, match=message):
        Served(models, shares, shadows)


def test_the_command_says_so_in_one_line(tmp_path):
    folder = toy_export(tmp_path)
    command = [sys.executable, "-m", "llm4sbr", "serve", f"A={folder}", "--port", "0", "--split", "B=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "error: 'B': no such model; this server has A\n")
