"""What is written for Triton and TensorRT, as far as it can be proved without a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from llm4sbr import registry
from llm4sbr.errors import DeviceError, StoreError
from llm4sbr.store import write_json
from llm4sbr.testing.exporters import HORIZONS, TEXT_DIM, toy_inputs, toy_model, toy_spec
from llm4sbr_export import engine
from llm4sbr_export.checks import Shapes
from llm4sbr_export.triton import ENGINE_NAME, NAME, Triton

RTX = pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="needs the extra rtx")
PROFILE = Shapes(64, 50)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    inputs = toy_inputs([[1, 2, 3], [4]], "intents")
    Triton(provider="cpu").export(toy_model(), inputs, folder / "model.triton", spec=toy_spec("intents"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), [(NAME, "model.onnx"), (ENGINE_NAME, "model.plan")])
def test_configuration_is_what_triton_reads(repository, name, file):
    """Parsed by Triton's own protobuf schema; shapes and types are those of the graph beside it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    text_format = pytest.importorskip("google.protobuf.text_format")
    folder = repository / "models" / name
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert (config.name, config.default_model_filename, config.max_batch_size) == (name, file, 8)
    inputs = {one.name: (one.data_type, list(one.dims)) for one in config.input}
    assert inputs["items"] == (schema.TYPE_INT64, [-1])
    assert inputs["exclude_seen"] == (schema.TYPE_BOOL, [1])
    assert inputs["intents"] == (schema.TYPE_FP32, [len(HORIZONS), TEXT_DIM])
    assert {one.name: list(one.dims) for one in config.output} == {"item_ids": [5], "scores": [5]}
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 4, 8]
    assert config.parameters["fingerprint"].string_value == "f"
    loaded = onnx.load(folder / "1" / "model.onnx")
    left_out = {one.name for one in loaded.graph.initializer}  # an input with a default is none for Triton
    assert {one.name for one in loaded.graph.input} - left_out == set(inputs)
    sizes = {schema.TYPE_INT64: 8, schema.TYPE_BOOL: 1, schema.TYPE_FP32: 4}
    for warmup in config.model_warmup:
        for one in warmup.inputs.values():
            data = (folder / "warmup" / one.input_data_file).read_bytes()
            assert len(data) == int(np.prod(one.dims)) * sizes[one.data_type]


@pytest.mark.slow
def test_what_is_predicted_is_an_output_of_the_onnx_model_alone(tmp_path):
    """An engine computes all its outputs, so the one of TensorRT does not have it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    text_format = pytest.importorskip("google.protobuf.text_format")
    spec = toy_spec("predictor")
    Triton(provider="cpu").export(toy_model(), {}, tmp_path / "model.triton", spec=spec)
    for name, told in ((NAME, ["item_ids", "scores", "intents"]), (ENGINE_NAME, ["item_ids", "scores"])):
        folder = tmp_path / "models" / name
        config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
        assert [one.name for one in config.output] == told
        outputs = onnx.load(folder / "1" / "model.onnx").graph.output
        assert [one.name for one in outputs] == told
        shapes = [[size.dim_value for size in one.type.tensor_type.shape.dim][1:] for one in outputs]
        assert shapes == [list(one.dims) for one in config.output]


def test_scripts_of_the_repository(repository):
    for script in (repository / "docker.sh", repository / "models" / ENGINE_NAME / "1" / "trtexec.sh"):
        assert os.access(script, os.X_OK)
        subprocess.run(["sh", "-n", str(script)], check=True)
    compile((repository / "client.py").read_text(), "client.py", "exec")


def keyed(tmp_path: Path) -> tuple[Path, engine.Key]:
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    key = engine.Key("hash", "11.4.0", "NVIDIA A100, SM80", "fp16", tuple(PROFILE))
    write_json(path.with_name(engine.KEY), key._asdict() | {"engine": engine.store.file_sha256(path)})
    return path, key


def test_an_engine_is_taken_only_if_every_part_of_its_key_matches(tmp_path):
    path, key = keyed(tmp_path)
    assert engine.mismatch(path, key) == ""
    assert engine.made_for(path) == ("fp16", PROFILE)
    others = {
        "onnx": "other",
        "tensorrt": "11.5.0",
        "gpu": "NVIDIA H100, SM90",
        "precision": "fp32",
        "profile": (1,),
    }
    for part, other in others.items():
        assert engine.mismatch(path, key._replace(**{part: other})).startswith(f"{part} is")
    path.write_bytes(b"another")
    assert engine.mismatch(path, key) == "its file has changed"
    path.unlink()
    assert engine.mismatch(path, key) == "there is no engine with a key"


def test_a_key_that_says_nothing_is_an_error(tmp_path):
    path, _ = keyed(tmp_path)
    path.with_name(engine.KEY).write_text("{}")
    with pytest.raises(StoreError, match="not an engine's key"):
        engine.made_for(path)


def test_without_a_gpu_there_is_no_key(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(DeviceError, match="no NVIDIA GPU"):
        engine.Key.here(tmp_path / "model.onnx", precision="fp32", shapes=PROFILE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and the extra tensorrt")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_answers_as_the_model_and_is_rebuilt_when_its_key_differs(tmp_path, precision):
    pytest.importorskip("tensorrt")
    exporter = registry.create("exporters", "tensorrt")
    path = tmp_path / "model.engine"
    inputs = toy_inputs([[1, 2, 3], [4]], "intents")
    exporter.export(toy_model(), inputs, path, spec=toy_spec("intents", precision=precision))
    best = toy_model()(inputs["items"], inputs["mask"], inputs["intents"]).topk(5)
    for _ in range(2):
        ids, scores = exporter.load(path).score(**inputs)
        assert torch.equal(ids, best.indices + 1)
        torch.testing.assert_close(scores, best.values, atol=1e-3, rtol=1e-3)
        path.write_bytes(b"not an engine")  # its hash is part of the key: the second round builds it again
