"""What a live server answers, good input and bad; `test_server_limits` and `test_server_life` do the rest."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import TEXT, toy_export

MODEL = "/v2/models/llm4sbr"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(toy_export(tmp_path_factory.mktemp("export")), "--watch", "0") as running:
        yield running


@pytest.fixture(scope="module")
def with_intents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = toy_export(tmp_path_factory.mktemp("export"), intents=True)
    with live_server(folder, "--watch", "0") as running:
        yield running


def tensor(name: str, data: object, datatype: str = "INT64", shape: list[int] | None = None) -> dict:
    return {"name": name, "datatype": datatype, "shape": shape or list(np.shape(data)), "data": data}


def infer(server: LiveServer, *inputs: dict, path: str = f"{MODEL}/infer", **more: object):
    return server.ask(path, {"inputs": list(inputs), **more})


# Health and metadata


def test_health_and_metadata(server):
    assert server.ask("/v2/health/live").json == {"live": True}
    assert server.ask("/v2/health/ready").json == {"ready": True}
    assert server.ask("/v2").json["extensions"][0] == "binary_tensor_data"
    assert server.ask(f"{MODEL}/ready").json == {"name": "llm4sbr", "ready": True}
    told = server.ask(MODEL).json
    assert told["inputs"] == [
        {"name": "items", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "mask", "datatype": "BOOL", "shape": [-1, -1]},
        {"name": "exclude_seen", "datatype": "BOOL", "shape": [-1, 1]},
    ]
    assert told["outputs"] == [
        {"name": "item_ids", "datatype": "INT64", "shape": [-1, 5]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, 5]},
    ]
    (version,) = told["versions"]
    assert server.ask(f"{MODEL}/versions/{version}").json == told
    assert infer(server, tensor("items", [[1]]), path=f"{MODEL}/versions/{version}/infer").status == 200


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v2/models/other", "GET", 404),
        ("/v2/models/other/infer", "POST", 404),
        (f"{MODEL}/versions/1", "GET", 200),
        (f"{MODEL}/versions/2", "GET", 404),
        (f"{MODEL}/nothing", "GET", 404),
        ("/../etc/passwd", "GET", 404),
        ("/recommend", "GET", 405),
        (f"{MODEL}/infer", "PUT", 405),
        ("/", "POST", 405),
        ("/v2/health/live", "HEAD", 200),
    ],
)
def test_paths_and_methods(server, path, method, status):
    found = server.ask(path, b"{}" if method in ("POST", "PUT") else None, method=method)
    assert found.status == status
    assert status == 200 or set(found.json) == {"error"}


# Inference


def test_infer_gives_the_known_answer(server):
    found = infer(server, tensor("items", [[3, 5, 0], [1, 19, 20]]), id="req-7").json
    assert (found["model_name"], found["id"]) == ("llm4sbr", "req-7")
    ids, scores = found["outputs"]
    assert (ids["name"], ids["datatype"], ids["shape"]) == ("item_ids", "INT64", [2, 5])
    assert ids["data"] == [6, 7, 8, 9, 10, 2, 3, 4, 5, 6]  # 1 is next after 20, but was seen
    assert scores["data"] == [20, 19, 18, 17, 16, 19, 18, 17, 16, 15]


def test_optional_inputs(server):
    items = tensor("items", [3, 5, 9, 1, 19, 20], shape=[2, 3])  # flat data is as good
    mask = tensor("mask", [[True, True, False], [True, True, True]], "BOOL")
    seen = tensor("exclude_seen", [[True], [False]], "BOOL")
    ids, _ = infer(server, items, mask, seen).json["outputs"]
    assert ids["data"] == [6, 7, 8, 9, 10, 1, 2, 3, 4, 5]


def test_outputs_wanted(server):
    found = infer(server, tensor("items", [[3]]), outputs=[{"name": "scores"}]).json
    assert [one["name"] for one in found["outputs"]] == ["scores"]


def test_binary_in_and_out(server):
    data = struct.pack("<3q", 3, 5, 7)
    head = {"name": "items", "datatype": "INT64", "shape": [1, 3], "parameters": {"binary_data_size": 24}}
    outputs = [{"name": "item_ids", "parameters": {"binary_data": True}}, {"name": "scores"}]
    text = json.dumps({"inputs": [head], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    found = server.ask(f"{MODEL}/infer", text + data, headers=headers)
    end = int(found.headers["inference-header-content-length"])
    ids, scores = json.loads(found.body[:end])["outputs"]
    assert ids["parameters"] == {"binary_data_size": 40}
    assert "data" not in ids
    assert scores["data"] == [20, 19, 18, 17, 16]
    assert struct.unpack("<5q", found.body[end:]) == (8, 9, 10, 11, 12)


def test_with_the_client_that_people_use(server):
    client = pytest.importorskip("tritonclient.http")
    utils = pytest.importorskip("tritonclient.utils")
    with client.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("llm4sbr")
        assert not triton.is_model_ready("other")
        assert triton.get_server_metadata()["name"] == "llm4sbr"
        version = triton.get_model_metadata("llm4sbr")["versions"][0]
        items = client.InferInput("items", [2, 3], "INT64")
        for binary in (True, False):
            items.set_data_from_numpy(np.array([[3, 5, 0], [1, 2, 4]]), binary_data=binary)
            seen = client.InferInput("exclude_seen", [2, 1], "BOOL")
            seen.set_data_from_numpy(np.array([[True], [True]]), binary_data=binary)
            wanted = [
                client.InferRequestedOutput(name, binary_data=binary) for name in ("scores", "item_ids")
            ]
            for outputs in (None, wanted):
                found = triton.infer(
                    "llm4sbr", [items, seen], model_version=version, outputs=outputs, request_id="a"
                )
                assert found.get_response()["id"] == "a"
                ids, scores = found.as_numpy("item_ids"), found.as_numpy("scores")
                assert ids.tolist() == [[6, 7, 8, 9, 10], [5, 6, 7, 8, 9]]
                assert (ids.dtype, scores.dtype, scores[0, 0]) == (np.int64, np.float32, 20)
        waiting = [triton.async_infer("llm4sbr", [items]) for _ in range(20)]
        assert all(one.get_result().as_numpy("item_ids")[0, 0] == 6 for one in waiting)
        wrong = client.InferInput("items", [1, 1], "INT32")
        wrong.set_data_from_numpy(np.array([[1]], np.int32))
        with pytest.raises(utils.InferenceServerException, match="items: datatype 'INT32', expected INT64"):
            triton.infer("llm4sbr", [wrong])


def test_intents_reach_the_model(with_intents):
    items = tensor("items", [[3]])
    plain = infer(with_intents, items).json["outputs"][1]["data"]
    intents = tensor("intents", np.full((1, 2, TEXT), 0.5).tolist(), "FP32")
    assert infer(with_intents, items, intents).json["outputs"][1]["data"] == [one + 4 for one in plain]
    found = with_intents.ask("/recommend", {"session": [3], "k": 1}).json
    assert found["items"][0]["id"] == 4
    assert found["intents"] == {"source": "none", "session": [], "perspectives": []}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_intents_that_are_no_numbers(with_intents, value):
    items = {"name": "items", "datatype": "INT64", "shape": [1, 1], "data": [3]}
    size = 4 * 2 * TEXT
    intents = {"name": "intents", "datatype": "FP32", "shape": [1, 2, TEXT]}
    text = json.dumps({"inputs": [items, intents | {"parameters": {"binary_data_size": size}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    body = text + np.full(2 * TEXT, value, np.float32).tobytes()
    found = with_intents.ask(f"{MODEL}/infer", body, headers=headers)
    assert (found.status, "not all values are finite" in found.json["error"]) == (400, True)
    text = text.replace(b'"parameters": {"binary_data_size": 32}', b'"data": [NaN, 0, 0, 0, 0, 0, 0, 0]')
    assert with_intents.ask(f"{MODEL}/infer", text).status == 400  # NaN is not JSON


def test_finite_intents_that_are_too_large(with_intents):
    """Their sum is infinite; such scores would be null in JSON, which no client expects."""
    items, huge = tensor("items", [[3]]), [[[3e38] * TEXT] * 2]
    found = infer(with_intents, items, tensor("intents", huge, "FP32"))
    assert (found.status, "intents: too large" in found.json["error"]) == (400, True)


GOOD = tensor("items", [[1, 2]])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[1]", "expected a JSON object, not list"),
        (b"[" * 100_000, "the body is not JSON"),
        ({}, "inputs: expected a list"),
        ({"inputs": []}, "items is missing"),
        ({"inputs": [tensor("item", [[1]])]}, "'item' is not one of items, mask, exclude_seen"),
        ({"inputs": [GOOD, GOOD]}, "items: given twice"),
        ({"inputs": [tensor("intents", [[[0.0]]], "FP32")]}, "'intents' is not one of"),
        ({"inputs": [tensor("items", [[1]], "INT32")]}, "datatype 'INT32', expected INT64"),
        ({"inputs": [tensor("items", [1, 2])]}, "shape [2], expected 2 sizes"),
        ({"inputs": [tensor("items", [[[1]]])]}, "expected 2 sizes"),
        ({"inputs": [tensor("items", [[1]], shape=[1, -1])]}, "expected 2 sizes"),
        ({"inputs": [tensor("items", [[]], shape=[1, 0])]}, "expected 2 sizes of at least 1"),
        ({"inputs": [tensor("items", [[1, 2]], shape=[2, 2])]}, "data has the shape [1, 2], not [2, 2]"),
        ({"inputs": [tensor("items", [[1], [2, 3]], shape=[1, 3])]}, "differ in length"),
        ({"inputs": [tensor("items", [[1.5]])]}, "other values than INT64"),
        ({"inputs": [tensor("items", [["1"]])]}, "other values than INT64"),
        ({"inputs": [tensor("items", [[True, 2]])]}, "other values than INT64"),
        ({"inputs": [GOOD | {"name": "x" * 100_000}]}, "is not one of items, mask"),
        ({"inputs": [GOOD | {"datatype": "x" * 100_000}]}, "expected INT64"),
        ({"inputs": [tensor("items", [[2**70]])]}, "other values than INT64"),
        ({"inputs": [{"name": "items", "datatype": "INT64", "shape": [1, 1]}]}, "data is missing"),
        (
            {"inputs": [tensor("items", [[99]])], "parameters": {"unknown": "fail"}},
            "session 0: 99 is not a catalogue id in 1..20",
        ),
        ({"inputs": [tensor("items", [[1], [-4]])]}, "session 1: -4 is not a catalogue id"),
        ({"inputs": [tensor("items", [[1, 2], [0, 0]])]}, "session 1 is empty"),
        ({"inputs": [tensor("items", [[1], [2]]), tensor("mask", [[True], [False]], "BOOL")]}, "1 is empty"),
        (
            {"inputs": [tensor("items", [[1, 0, 2]])]},
            "session 0 is padded in between; clicks go",
        ),
        ({"inputs": [tensor("items", [[1, 2], [0, 2]])]}, "session 1 is padded on the left; clicks go"),
        ({"inputs": [tensor("items", [[1] * 1001])]}, "1001 clicks, at most 1000 are allowed"),
        ({"inputs": [tensor("items", [[1]] * 33)]}, "33 sessions, at most 32"),
        ({"inputs": [GOOD, tensor("mask", [[True]], "BOOL")]}, "mask of its shape"),
        ({"inputs": [GOOD, tensor("exclude_seen", [[True, True]], "BOOL")]}, "expected [-1, 1]"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": 16}}]}, "16 bytes of binary data announced"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": -8}}]}, "binary_data_size -8, expected 16"),
        ({"inputs": [GOOD | {"parameters": 3}]}, "parameters: expected an object"),
        ({"inputs": [GOOD], "id": 3}, "id: expected a text"),
        ({"inputs": [GOOD], "outputs": [{"name": "hidden"}]}, "'hidden' is not one of item_ids, scores"),
        ({"inputs": [GOOD], "outputs": "all"}, "outputs: expected a list"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "scores", "parameters": {"classification": 3}}]},
            "classification is not supported",
        ),
        (
            {"inputs": [GOOD], "outputs": [{"name": "scores", "parameters": {"shared_memory_region": "a"}}]},
            "shared memory is not supported",
        ),
        ({"inputs": [GOOD | {"parameters": {"shared_memory_region": "a"}}]}, "send the data itself"),
    ],
)
def test_bad_inference_requests(server, body, message):
    found = server.ask(f"{MODEL}/infer", body)
    assert (found.status, list(found.json)) == (400, ["error"])
    assert message in found.json["error"]
    assert "\n" not in found.json["error"]
    assert len(found.json["error"]) < 300


@pytest.mark.parametrize("length", ["-1", "abc", "1000", "²", "9" * 5000])
def test_bad_length_of_the_json_part(server, length):
    headers = {"Inference-Header-Content-Length": length.encode("utf-8").decode("latin-1")}
    found = server.ask(f"{MODEL}/infer", {"inputs": [GOOD]}, headers=headers)
    assert (found.status, "Inference-Header-Content-Length" in found.json["error"]) == (400, True)


def test_bytes_left_over(server):
    text = json.dumps({"inputs": [GOOD]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    found = server.ask(f"{MODEL}/infer", text + b"12345", headers=headers)
    assert (found.status, found.json["error"]) == (400, "5 bytes are left after the last input")


def test_an_encoding_that_changes_nothing_is_read(server):
    assert server.ask("/recommend", {"session": [3]}, headers={"Content-Encoding": "Identity"}).status == 200
