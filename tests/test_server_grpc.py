"""The Open Inference Protocol over gRPC: the same answers, refusals and limits as over HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

grpc = pytest.importorskip("grpc")
health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")

from grpc_health.v1 import health_pb2_grpc  # noqa: E402

from llm4sbr.serving.server.rpc.messages import COMPILED, SERVICE, message, methods  # noqa: E402
from llm4sbr.testing.live_server import LiveServer, live_server  # noqa: E402
from llm4sbr.testing.toy_export import TEXT, titles, toy_export  # noqa: E402

PROTO = Path(__file__).parent.parent / "llm4sbr/serving/server/rpc"
BODY = 100_000


class Rpc(NamedTuple):
    server: LiveServer
    address: str
    channel: Any

    def ask(self, method: str, request: Any = b"", **options: Any) -> Any:
        body = request if isinstance(request, bytes) else request.SerializeToString()
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        found = message(f"{method}Response")()
        found.ParseFromString(call(body, timeout=20, **options))
        return found

    def refusal(self, method: str, request: Any, **options: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(method, request, **options)
        return caught.value.code().name, caught.value.details()


@pytest.fixture(scope="module")
def rpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rpc]:
    one = toy_export(tmp_path_factory.mktemp("export"), predictor=True)
    two = toy_export(tmp_path_factory.mktemp("export"), step=3, intents=True)
    limits = ("--grpc-port", "0", "--watch", "0", "--max-body", str(BODY / 2**20), "--shadow", "B")
    with live_server(f"A={one}", f"B={two}", *limits) as server:
        server.wait_for("model ready", count=2)
        address = server.wait_for("grpc listening")["address"]
        with grpc.insecure_channel(address) as channel:
            yield Rpc(server, address, channel)


def infer(*inputs: dict[str, Any], raw: Sequence[bytes] = (), **more: Any) -> Any:
    return message("ModelInferRequest")(**{"model_name": "A"} | more, inputs=inputs, raw_input_contents=raw)


def tensor(name: str, data: Any, kind: str = "INT64") -> dict[str, Any]:
    field = {"INT64": "int64_contents", "BOOL": "bool_contents", "FP32": "fp32_contents"}[kind]
    contents = {field: np.ravel(data).tolist()}
    return {"name": name, "datatype": kind, "shape": np.shape(data), "contents": contents}


ITEMS = tensor("items", [[3, 5, 0], [1, 19, 20]])
RAW = {"name": "items", "datatype": "INT64", "shape": [1, 2]}
TWO = np.array([3, 5]).tobytes()


def test_the_compiled_description_is_that_of_the_proto(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    out = tmp_path / COMPILED
    assert protoc.main(["", f"-I{PROTO}", f"--descriptor_set_out={out}", "open_inference.proto"]) == 0
    assert out.read_bytes() == (PROTO / COMPILED).read_bytes()


def test_health_and_metadata(rpc):
    assert rpc.ask("ServerLive").live
    assert rpc.ask("ServerReady").ready
    ready = message("ModelReadyRequest")
    assert [rpc.ask("ModelReady", ready(name=name)).ready for name in ("A", "B", "C")] == [True, True, False]
    assert rpc.ask("ServerMetadata").name == "llm4sbr"
    told = rpc.ask("ModelMetadata", message("ModelMetadataRequest")(name="A", version="1"))
    over_http = rpc.server.ask("/v2/models/A").json
    assert (told.name, list(told.versions), told.platform) == ("A", over_http["versions"], "onnxruntime_onnx")
    for found, expected in ((told.inputs, over_http["inputs"]), (told.outputs, over_http["outputs"])):
        assert [{"name": o.name, "datatype": o.datatype, "shape": list(o.shape)} for o in found] == expected
    stub = health_pb2_grpc.HealthStub(rpc.channel)
    for name in ("", SERVICE):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == 1  # SERVING
    assert set(methods()) == {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata"} | {
        "ModelMetadata",
        "ModelInfer",
        "ModelConfig",
        "ModelStatistics",
    }


def test_what_tritons_tools_ask_besides(rpc):
    told = rpc.ask("ModelConfig", message("ModelConfigRequest")(name="A")).config
    over_http = rpc.server.ask("/v2/models/A/config").json
    assert (told.name, told.max_batch_size, told.backend) == ("A", over_http["max_batch_size"], "onnxruntime")
    assert [(one.name, list(one.dims), one.optional) for one in told.input] == [
        (one["name"], one["dims"], one["optional"]) for one in over_http["input"]
    ]
    assert {one.data_type for one in told.output} == {9, 11}  # INT64, FP32
    request = message("ModelStatisticsRequest")(name="A")
    before = rpc.ask("ModelStatistics", request).model_stats[0]
    rpc.ask("ModelInfer", infer(ITEMS))
    after = rpc.ask("ModelStatistics", request).model_stats[0]
    assert after.version == "1"  # a number, as perf_analyzer reads it
    assert after.inference_count - before.inference_count == 2  # sessions
    counts = {
        getattr(after.inference_stats, f"compute_{part}").count for part in ("input", "infer", "output")
    }
    assert counts == {after.execution_count}  # perf_analyzer stops where they differ
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert rpc.refusal("ModelConfig", message("ModelConfigRequest")(name="D"))[0] == "NOT_FOUND"
    client = pytest.importorskip("tritonclient.grpc")
    with client.InferenceServerClient(rpc.address) as triton:
        assert triton.get_model_config("A").config.input[0].name == "items"
        assert triton.get_inference_statistics("A").model_stats[0].inference_count == after.inference_count


def outputs(found: Any) -> dict[str, Any]:
    kinds = {"INT64": np.int64, "FP32": np.float32}
    return {
        one.name: np.frombuffer(raw, kinds[one.datatype]).reshape(one.shape)
        for one, raw in zip(found.outputs, found.raw_output_contents, strict=True)
    }


def test_the_known_answer(rpc):
    found = rpc.ask("ModelInfer", infer(ITEMS, id="req-7"))
    assert (found.model_name, found.id) == ("A", "req-7")
    assert outputs(found)["item_ids"].tolist() == [[6, 7, 8, 9, 10], [2, 3, 4, 5, 6]]
    assert outputs(found)["scores"][0].tolist() == [20, 19, 18, 17, 16]
    seen = tensor("exclude_seen", [[True], [False]], "BOOL")
    mask = tensor("mask", [[True, True, False], [True, True, True]], "BOOL")
    found = rpc.ask("ModelInfer", infer(ITEMS, mask, seen, outputs=[{"name": "item_ids"}]))
    assert {name: one.tolist() for name, one in outputs(found).items()} == {
        "item_ids": [[6, 7, 8, 9, 10], [1, 2, 3, 4, 5]]
    }
    raw = rpc.ask("ModelInfer", infer(RAW, raw=[TWO], outputs=[{"name": "intents"}]))
    assert np.allclose(outputs(raw)["intents"], [[titles(20)[5], titles(20)[4]]])
    other = infer(
        tensor("items", [[3]]), tensor("intents", np.full((1, 2, TEXT), 0.5), "FP32"), model_name="B"
    )
    assert outputs(rpc.ask("ModelInfer", other))["scores"][0, 0] == 24


def test_a_slow_sender_is_ended_in_time_and_others_are_answered(tmp_path):
    limits = ("--grpc-port", "0", "--watch", "0", "--timeout", "0.5", "--queue", "2", "--max-batch", "2")
    with live_server(f"A={toy_export(tmp_path)}", *limits) as server:
        server.wait_for("model ready")
        address = server.wait_for("grpc listening")["address"]
        with grpc.insecure_channel(address) as channel:
            over = threading.Event()

            def never() -> Iterator[bytes]:
                over.wait(20)
                yield b""

            call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
            started = time.monotonic()
            slow = [call.future(never(), timeout=20) for _ in range(2)]  # both places
            for one in slow:
                assert one.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                assert one.details() == "no whole message within 0.5 s"
            assert 0.4 < time.monotonic() - started < 10
            found = Rpc(server, address, channel).ask("ModelInfer", infer(ITEMS))
            assert outputs(found)["item_ids"].tolist()[0] == [6, 7, 8, 9, 10]
            nothing = call.future(iter(()), timeout=20)
            assert nothing.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert nothing.details() == "the call has no message"
            over.set()


def test_filters_and_unknown_items(rpc):
    told = {"where": {"string_param": "in_stock; price > 4"}, "k": {"int64_param": 2}}
    found = rpc.ask("ModelInfer", infer(tensor("items", [[3, 99], [77, 0]]), parameters=told))
    assert outputs(found)["item_ids"].tolist() == [[6, 8], [20, 18]]
    assert found.parameters["left_out"].string_param == "[[99], [77]]"
    assert "nothing is known of session 1" in found.parameters["notes"].string_param


def test_tritons_client(rpc):
    client = pytest.importorskip("tritonclient.grpc")
    utils = pytest.importorskip("tritonclient.utils")
    with client.InferenceServerClient(rpc.address) as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert [triton.is_model_ready(name) for name in ("A", "C")] == [True, False]
        assert triton.get_model_metadata("A").outputs[0].name == "item_ids"
        items = client.InferInput("items", [1, 2], "INT64")
        items.set_data_from_numpy(np.array([[3, 5]]))
        wanted = [client.InferRequestedOutput(name) for name in ("scores", "item_ids")]
        for outputs, algorithm in ((None, None), (wanted, "gzip"), (wanted, "deflate")):
            found = triton.infer(
                "A", [items], model_version="1", outputs=outputs, compression_algorithm=algorithm
            )
            assert found.as_numpy("item_ids").tolist() == [[6, 7, 8, 9, 10]]
            assert found.as_numpy("scores")[0, 0] == 20
        wrong = client.InferInput("items", [1, 1], "INT32")
        wrong.set_data_from_numpy(np.array([[1]], np.int32))
        with pytest.raises(
            utils.InferenceServerException, match="datatype 'INT32', expected INT64"
        ) as caught:
            triton.infer("A", [wrong])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("inputs", "more"),
    [
        ([], {}),
        ([tensor("item", [[1]])], {}),
        ([ITEMS, ITEMS], {}),
        ([tensor("items", [[-9]])], {}),
        ([tensor("items", [[0, 2]])], {}),
        ([tensor("items", [[1] * 1001])], {}),
        ([tensor("items", [[1]] * 33)], {}),
        ([ITEMS], {"outputs": [{"name": "hidden"}]}),
        ([ITEMS | {"shape": [2, 2]}], {}),
        ([ITEMS | {"datatype": "INT32"}], {}),
    ],
)
def test_bad_requests_get_the_line_that_http_gives(rpc, inputs, more):
    """Written as JSON, the request is refused with the same words."""
    told = [
        {key: value for key, value in one.items() if key != "contents"}
        | {"shape": list(one["shape"]), "data": next(iter(one["contents"].values()))}
        for one in inputs
    ]
    over_http = rpc.server.ask("/v2/models/A/infer", {"inputs": told, **more})
    assert over_http.status == 400
    assert rpc.refusal("ModelInfer", infer(*inputs, **more)) == (
        "INVALID_ARGUMENT",
        over_http.json["error"],
    )


@pytest.mark.parametrize(
    ("request_", "code", "line"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT", "the message is no ModelInferRequest"),
        (infer(ITEMS, model_name="D"), "NOT_FOUND", "model 'D': unknown; this server has 'A', 'B'"),
        (infer(ITEMS, model_version="7"), "NOT_FOUND", "version '7': not served"),
        (infer(RAW, raw=[TWO, TWO]), "INVALID_ARGUMENT", "raw_input_contents: 2 for 1 inputs"),
        (infer(RAW, raw=[TWO[:-1]]), "INVALID_ARGUMENT", "items: binary_data_size 15, expected 16"),
        (infer(ITEMS, raw=[TWO]), "INVALID_ARGUMENT", "items: has contents, though raw_input_contents"),
        (infer(RAW), "INVALID_ARGUMENT", "items: data is missing"),
    ],
)
def test_what_only_a_message_can_have_wrong(rpc, request_, code, line):
    found, told = rpc.refusal("ModelInfer", request_)
    assert (found, line in told, "\n" in told) == (code, True, False), told


def test_large_messages_are_refused_packed_or_not(rpc):
    large = infer(RAW, raw=[bytes(30 * BODY)])
    for packed in (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert rpc.refusal("ModelInfer", large, compression=packed)[0] == "RESOURCE_EXHAUSTED"
    assert rpc.ask("ServerLive").live


def test_calls_are_counted_and_shadowed(rpc):
    page = rpc.server.ask("/metrics").body.decode()
    assert 'llm4sbr_requests_total{model="A",route="grpc infer",status="200"}' in page
    assert 'llm4sbr_requests_total{model="A",route="grpc infer",status="400"}' in page
    assert 'llm4sbr_shadow_total{model="B",result="done"}' in page


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "llm4sbr", "serve", str(toy_export(tmp_path)), "--port", "0"]
        done = subprocess.run([*command, "--grpc-port", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: 127.0.0.1:{port}: cannot be listened on; choose another --grpc-port"
    )


def test_open_calls_are_answered_at_the_end(tmp_path):
    with ExitStack() as stack:
        server = stack.enter_context(
            live_server(toy_export(tmp_path), "--grpc-port", "0", "--max-delay", "400")
        )
        address = server.wait_for("grpc listening")["address"]
        channel = stack.enter_context(grpc.insecure_channel(address))
        request = infer(RAW, raw=[TWO], model_name="llm4sbr").SerializeToString()
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(request, timeout=20)
        while 'llm4sbr_queue_rows{model="llm4sbr"} 1.0' not in server.ask("/metrics").body.decode():
            assert not call.done()
        assert server.stop() == 0
        assert call.result()
