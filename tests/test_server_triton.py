"""What Triton's clients ask beyond inference, packed bodies, and the output `intents`."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from llm4sbr.serving.server.http import Refusal, unpack
from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import LONGEST, TEXT, titles, toy_export

MODEL = "/v2/models/llm4sbr"
ITEMS = {"name": "items", "datatype": "INT64", "shape": [2, 2], "data": [3, 5, 1, 19]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = toy_export(tmp_path_factory.mktemp("export"), predictor=True)
    with live_server(folder, "--watch", "0", "--max-body", "0.1") as running:
        yield running


def test_configuration(server):
    assert server.ask(f"{MODEL}/config").json == {
        "name": "llm4sbr",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 32,
        "input": [
            {"name": "items", "data_type": "TYPE_INT64", "dims": [-1], "optional": False},
            {"name": "mask", "data_type": "TYPE_BOOL", "dims": [-1], "optional": True},
            {"name": "exclude_seen", "data_type": "TYPE_BOOL", "dims": [1], "optional": True},
        ],
        "output": [
            {"name": "item_ids", "data_type": "TYPE_INT64", "dims": [5]},
            {"name": "scores", "data_type": "TYPE_FP32", "dims": [5]},
            {"name": "intents", "data_type": "TYPE_FP32", "dims": [2, TEXT]},
        ],
    }
    assert server.ask(f"{MODEL}/versions/1/config").status == 200


def test_statistics(server):
    def told() -> dict:
        (one,) = server.ask(f"{MODEL}/stats").json["model_stats"]
        assert server.ask("/v2/models/stats").json == {"model_stats": [one]}
        return one

    before = told()
    assert server.ask(f"{MODEL}/infer", {"inputs": [ITEMS]}).status == 200
    assert server.ask(f"{MODEL}/infer", {"inputs": []}).status == 400
    after = told()
    assert after["inference_count"] == before["inference_count"] + 2
    assert after["execution_count"] == before["execution_count"] + 1
    for name, more in {"success": 1, "fail": 1, "compute_infer": 1, "queue": 1, "cache_hit": 0}.items():
        assert after["inference_stats"][name]["count"] == before["inference_stats"][name]["count"] + more
    assert after["inference_stats"]["success"]["ns"] > after["inference_stats"]["compute_infer"]["ns"] > 0
    assert abs(after["last_inference"] / 1000 - time.time()) < 60


def test_index(server):
    (version,) = server.ask(MODEL).json["versions"]
    there = [{"name": "llm4sbr", "version": version, "state": "READY", "reason": ""}]
    for body in (b"", {}, {"ready": True}):
        assert server.ask("/v2/repository/index", body, method="POST").json == there
    assert server.ask("/v2/repository/index").status == 405


def test_version_1_is_the_current_one(server):
    found = server.ask(f"{MODEL}/versions/1/infer", {"inputs": [ITEMS]}).json
    assert found["model_version"] == server.ask(MODEL).json["versions"][0]


def test_the_graphs_own_intents_if_they_are_named(server):
    """After item i: the vectors of items i + 1 (long) and i (short)."""
    request = {"inputs": [ITEMS], "outputs": [{"name": "intents"}, {"name": "item_ids"}]}
    intents, ids = server.ask(f"{MODEL}/infer", request).json["outputs"]
    table = titles(20)
    expected = [[table[5], table[4]], [table[19], table[18]]]
    assert (intents["datatype"], intents["shape"]) == ("FP32", [2, 2, TEXT])
    assert np.allclose(np.reshape(intents["data"], (2, 2, TEXT)), expected, atol=1e-6)
    assert ids["data"][0] == 6
    plain = server.ask(f"{MODEL}/infer", {"inputs": [ITEMS]}).json["outputs"]
    assert [one["name"] for one in plain] == ["item_ids", "scores"]


def test_tritons_client(server):
    client = pytest.importorskip("tritonclient.http")
    with client.InferenceServerClient(f"127.0.0.1:{server.port}") as triton:
        assert triton.get_model_config("llm4sbr")["max_batch_size"] == 32
        assert triton.get_inference_statistics("llm4sbr", "1")["model_stats"][0]["name"] == "llm4sbr"
        assert triton.get_inference_statistics()["model_stats"][0]["inference_count"] > 0
        assert triton.get_model_repository_index()[0]["state"] == "READY"
        items = client.InferInput("items", [1, 2], "INT64")
        items.set_data_from_numpy(np.array([[3, 5]]))
        wanted = [client.InferRequestedOutput(name) for name in ("intents", "item_ids")]
        for algorithm in ("gzip", "deflate"):
            found = triton.infer(
                "llm4sbr",
                [items],
                model_version="1",
                outputs=wanted,
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            assert found.as_numpy("item_ids").tolist() == [[6, 7, 8, 9, 10]]
            assert np.allclose(found.as_numpy("intents")[0, 1], titles(20)[4])


# Packed bodies

TEXT_BODY = json.dumps({"session": [3], "k": 1}).encode()
BARE = zlib.compressobj(wbits=-15)
PACKED = {
    "gzip": gzip.compress(TEXT_BODY),
    "x-gzip": gzip.compress(TEXT_BODY),
    "deflate": zlib.compress(TEXT_BODY),
    "Deflate": BARE.compress(TEXT_BODY) + BARE.flush(),  # without zlib's header
}


@pytest.mark.parametrize("coding", PACKED)
def test_packed_bodies_are_read(server, coding):
    found = server.ask("/recommend", PACKED[coding], headers={"Content-Encoding": coding})
    assert (found.status, found.json["items"][0]["id"]) == (200, 4)


@pytest.mark.parametrize(
    ("coding", "body", "status", "message"),
    [
        ("gzip", b"\x1f\x8b", 400, "the gzip body is cut off"),
        ("gzip", b"", 400, "the gzip body is cut off"),
        ("gzip", TEXT_BODY, 400, "the body is not gzip, as its Content-Encoding says"),
        ("gzip", PACKED["gzip"][:-9], 400, "the gzip body is cut off"),
        ("gzip", PACKED["gzip"] + b"x", 400, "the gzip body has something behind its end"),
        ("gzip", 2 * PACKED["gzip"], 400, "the gzip body has something behind its end"),
        ("deflate", TEXT_BODY, 400, "the body is not deflate"),
        ("gzip", gzip.compress(b" " * 200_000), 413, "larger than 104,857 bytes when unpacked"),
        ("gzip, gzip", gzip.compress(PACKED["gzip"]), 415, "'gzip, gzip': expected gzip, deflate or none"),
        ("br", b"x", 415, "content coding 'br': expected gzip, deflate or none"),
    ],
    ids=range(10),  # packed bodies, by which they would be called, hold the time
)
def test_bodies_that_cannot_be_unpacked(server, coding, body, status, message):
    found = server.ask("/recommend", body, headers={"Content-Encoding": coding})
    assert (found.status, message in found.json["error"]) == (status, True), found.json
    assert status != 415 or found.headers["accept-encoding"] == "gzip, deflate"


def test_what_is_too_large_unpacked_takes_no_memory():
    """20 MB of blanks packed: no more than the limit is unpacked."""
    packed = gzip.compress(b" " * 20_000_000)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(Refusal, match="larger than 100,000 bytes"):
        unpack(packed, b"gzip", 100_000)
    assert time.process_time() - started < 0.05
    assert tracemalloc.get_traced_memory()[1] < 400_000
    tracemalloc.stop()


def test_a_session_as_long_as_the_model_takes(server):
    items = {"name": "items", "datatype": "INT64", "shape": [1, LONGEST], "data": [1] * LONGEST}
    assert server.ask(f"{MODEL}/infer", {"inputs": [items]}).status == 200
