"""Filters over HTTP: in `/recommend` and `/v2`, in batches, and named ones that change while serving."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llm4sbr.serving.server import batching
from llm4sbr.serving.server.batching import PendingRequest, join, parts
from llm4sbr.serving.server.sessions import usable
from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import LONGEST, toy_export

INFER = "/v2/models/llm4sbr/infer"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "sale.txt"
    path.write_text("i05\ni06\nnew\n")
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, stock: Path) -> Iterator[LiveServer]:
    folder = toy_export(tmp_path_factory.mktemp("export"))
    with live_server(folder, "--watch", "0.05", "--filter", f"sale={stock}") as running:
        yield running


def ids(server: LiveServer, **asked: object) -> list[int]:
    found = server.ask("/recommend", {"session": [3]} | asked)
    assert found.status == 200, found.json
    return [one["id"] for one in found.json["items"]]


def infer(server: LiveServer, sessions: list[list[int]], **parameters: object) -> dict:
    tensor = {"name": "items", "datatype": "INT64", "shape": [len(sessions), len(sessions[0])]}
    body = {"inputs": [tensor | {"data": sessions}], "parameters": parameters}
    found = server.ask(INFER, body)
    assert found.status == 200, found.json
    shape = found.json["outputs"][0]["shape"]
    return found.json | {"lists": np.array(found.json["outputs"][0]["data"]).reshape(shape).tolist()}


def test_recommend(server):
    assert ids(server, where="in_stock") == [4, 6, 8, 10, 12]
    assert ids(server, where=["price > 15", "not in_stock"], k=3) == [17, 19]
    assert ids(server, only=["i07", 9, "new"], without=[9]) == [7]
    assert ids(server, where="category in Lamp, Rug", k=2) == [8, 9]
    found = server.ask("/recommend", {"session": [3], "where": "sale", "attributes": True}).json
    assert found["items"][0]["attributes"] == {"category": "Mirror", "price": 5}
    assert (found["passing"], found["notes"]) == (2, [])
    assert "attributes" not in server.ask("/recommend", {"session": [3]}).json["items"][0]


def test_what_leaves_nothing_says_so(server):
    found = server.ask("/recommend", {"session": [3], "where": "category = Lamps"}).json
    assert (found["items"], found["passing"]) == ([], 0)
    assert found["notes"] == ["no item passes category = Lamps; did you mean 'Lamp'?"]
    found = infer(server, [[3, 4]], where="category = Lamps")
    assert found["lists"] == [[0] * 5]
    assert found["parameters"] == {"notes": "no item passes category = Lamps; did you mean 'Lamp'?"}


def test_a_session_of_unknown_items_gets_what_is_clicked_most(server):
    found = server.ask("/recommend", {"session": ["new 1"], "where": "in_stock", "k": 2}).json
    assert [one["id"] for one in found["items"]] == [20, 18]
    assert (found["variant"], found["left_out"], found["session"]) == ("popularity", ["new 1"], [])
    assert found["notes"][-1] == "these are the items with most clicks"


def test_tensors(server):
    whole = infer(server, [[3, 4], [10, 0]])
    assert whole["lists"] == [[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]]
    assert "parameters" not in whole
    found = infer(server, [[3, 4], [10, 0]], where="in_stock; price < 17", k=3)
    assert found["lists"] == [[6, 8, 10], [12, 14, 16]]
    assert infer(server, [[3, 4]], only="i09,i11", k=2)["lists"] == [[9, 11]]
    assert infer(server, [[3, 4]], only=[9, 11], without=[9], k=1)["lists"] == [[11]]


def test_tensors_with_unknown_items(server):
    found = infer(server, [[3, 99, 4], [50, 51, 0], [1, 0, 0]], k=2)
    assert found["lists"] == [[5, 6], [20, 19], [2, 3]]
    assert json.loads(found["parameters"]["left_out"]) == [[99], [50, 51], []]
    assert (
        found["parameters"]["notes"] == "nothing is known of session 1: these are the items with most clicks"
    )
    assert found["outputs"][1]["data"][2:4] == [20.0, 19.0]
    assert infer(server, [[77]], where="in_stock", k=2)["lists"] == [[20, 18]]


def test_tensors_of_long_sessions_are_cut_to_their_end(server):
    long = [11, 5, *range(1, 11)]  # the toy model reads seven clicks, and recommends what follows the last
    found = infer(server, [long, [3] + [0] * 11])
    expected = server.ask("/recommend", {"session": long, "k": 5}).json["items"]
    assert found["lists"] == [[one["id"] for one in expected], [4, 5, 6, 7, 8]]
    assert 11 not in found["lists"][0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"where": "colour = red"}, "no attribute is called 'colour'; there are category, price"),
        ({"where": "clearance"}, "no filter is called 'clearance'; there are in_stock, sale"),
        ({"where": "price <= cheap"}, "price has numbers, 'cheap' is none"),
        ({"where": "price <="}, "expected a value"),
        ({"where": {"price": 3}}, "where: expected a condition"),
        ({"where": [1]}, "where: expected a condition"),
        ({"where": ["a = 1"] * 33}, "33 conditions, at most 32"),
        ({"only": {"i01": 1}}, "only: expected a list of keys"),
        ({"without": [1.5]}, "without: expected a list of keys"),
        ({"only": [21]}, "no item has the catalogue id 21"),
        ({"only": ["i01"] * 10_001}, "only: 10,001 items, at most 10,000"),
        ({"only": ["new"], "unknown": "fail"}, "only: no item is called 'new'"),
        ({"k": 6}, "k: expected a number from 1 to 5"),
        ({"unknown": "maybe"}, "unknown: expected skip or fail"),
    ],
)
def test_bad_filters(server, asked, message):
    tensor = {"name": "items", "datatype": "INT64", "shape": [1, 1], "data": [3]}
    for path, body in (
        ("/recommend", {"session": [3]} | asked),
        (INFER, {"inputs": [tensor], "parameters": asked}),
    ):
        found = server.ask(path, body)
        assert (found.status, list(found.json)) == (400, ["error"])
        assert message in found.json["error"]
        assert "\n" not in found.json["error"]


def test_bad_tensors(server):
    tensor = {"name": "items", "datatype": "INT64", "shape": [1, 1], "data": [33]}
    found = server.ask(INFER, {"inputs": [tensor], "parameters": {"unknown": "fail"}})
    assert found.json == {"error": "items: session 0: 33 is not a catalogue id in 1..20"}
    found = server.ask(INFER, {"inputs": [tensor], "parameters": {"wher": "in_stock"}})
    assert found.json["error"].startswith("parameters: 'wher' is not one of k, unknown, only")
    found = server.ask("/recommend", {"session": [1], "attributes": 1})
    assert found.json == {"error": "attributes: expected true or false"}


def test_what_can_be_asked(server):
    found = server.ask("/filters").json
    assert found["filters"]["in_stock"] == {"passing": 10}
    assert found["attributes"]["price"] == {"kind": "number", "least": 1.0, "most": 20.0}
    assert found["attributes"]["category"]["distinct"] == 8
    assert "Lamp" in found["attributes"]["category"]["values"]


def test_a_request_replaces_a_named_filter(tmp_path):
    folder = toy_export(tmp_path / "export")
    with live_server(folder, "--watch", "0.05") as server:
        change(server, "in_stock", {"remove": ["i04"], "add": ["i05", "new"]}, passing=10, unknown=1)
        assert ids(server, where="in_stock") == [5, 6, 8, 10, 12]
        change(server, "in_stock", {"keys": ["i07", "i25"]}, passing=1, unknown=1)
        assert ids(server, where="in_stock") == [7]
        change(server, "in_stock", {"add": ["i09"]}, passing=2, unknown=0)
        before = server.ask("/recommend", {"session": [3]}).json["version"]
        toy_export(folder, items=27)  # a newer model knows i25, and has the filter as it was replaced
        wait(lambda: server.ask("/recommend", {"session": [3]}).json["version"] != before)
        assert ids(server, where="in_stock") == [7, 9, 25]


def change(server: LiveServer, name: str, body: dict, **expected: int) -> None:
    found = server.ask(f"/filters/{name}", body, headers=JSON)
    assert (found.status, found.json) == (200, {"filter": name, "models": {"llm4sbr": expected}})


@pytest.mark.parametrize(
    ("name", "body", "headers", "status", "message"),
    [
        ("clearance", {"keys": []}, JSON, 404, "no filter is called 'clearance'; there are in_stock, sale"),
        ("in_stock", {"keys": []}, {}, 415, "expected the content type application/json"),
        ("in_stock", {"keys": "i01"}, JSON, 400, "keys: expected a list of keys"),
        ("in_stock", {"add": [1]}, JSON, 400, "add: expected a list of keys"),
        ("in_stock", {}, JSON, 400, "expected {"),
        ("in_stock", {"keys": [], "add": []}, JSON, 400, "expected {"),
        ("in_stock", {"all": []}, JSON, 400, "expected {"),
        ("in_stock", None, JSON, 405, "expected POST"),
    ],
)
def test_bad_replacements_change_nothing(server, name, body, headers, status, message):
    before = server.ask("/filters").json["filters"]
    found = server.ask(f"/filters/{name}", body, headers=headers)
    assert found.status == status
    assert message in found.json["error"]
    assert server.ask("/filters").json["filters"] == before


def test_a_file_replaces_a_named_filter(server, stock):
    assert ids(server, where="sale") == [5, 6]
    stock.write_bytes(b"i08\n\xff")
    time.sleep(0.5)
    assert ids(server, where="sale") == [5, 6]  # what cannot be read changes nothing
    stock.unlink()
    time.sleep(0.2)
    stock.write_text("i07\n")
    wait(lambda: ids(server, where="sale") == [7])
    stock.write_text("i05\ni06\nnew\n")
    wait(lambda: ids(server, where="sale") == [5, 6])


def wait(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def job(rows: int, allowed: np.ndarray | None) -> PendingRequest:
    items = np.ones((rows, 2), np.int64)
    return PendingRequest(items, items > 0, np.ones((rows, 1), np.bool_), allowed=allowed)


def test_requests_with_different_filters_are_computed_together(monkeypatch):
    one, other = (np.full((1, 4), value, np.float32) for value in (-1, -2))
    assert join([job(1, None), job(2, None)]).allowed is None
    assert join([job(1, one), job(2, one)]).allowed is one
    mixed = join([job(1, one), job(2, None), job(1, other)]).allowed
    assert mixed.tolist() == [[-1] * 4, [0] * 4, [0] * 4, [-2] * 4]
    jobs = [job(1, one), job(2, None), job(1, other), job(3, other)]
    assert [len(part) for part in parts(jobs)] == [4]
    monkeypatch.setattr(batching, "MOST_ALLOWED", 12)  # three sessions of four items
    assert [len(part) for part in parts(jobs)] == [2, 1, 1]
    assert [one for part in parts(jobs) for one in part] == jobs
    assert [len(part) for part in parts([job(2, one)] * 9)] == [9]


def test_sessions_as_the_model_takes_them():
    items = np.array([[1, 2, 3, 2, 9, 4], [8, 9, 0, 0, 0, 0], [5, 1, 6, 3, 2, 1]])
    exclude = np.array([[True], [True], [False]])
    found = usable(items, items > 0, exclude, size=7, longest=3)
    assert found.items.tolist() == [[3, 2, 4, 1], [1, 0, 0, 0], [3, 2, 1, 0]]
    assert found.mask.tolist() == [[True] * 3 + [False], [True] + [False] * 3, [True] * 3 + [False]]
    assert found.left_out == ([9], [8, 9], [])
    assert found.unknown is not None
    assert found.unknown.tolist() == [False, True, False]
    known = usable(items[:1, :3], items[:1, :3] > 0, exclude[:1], size=7, longest=3)
    assert known.items is not found.items
    assert (known.left_out, known.unknown) == ((), None)
    assert LONGEST == 7
