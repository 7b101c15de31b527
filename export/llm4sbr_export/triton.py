"""The exporter `triton`: a model repository with the ONNX graph for CPU or GPU, and the engine for a GPU.

    models/llm4sbr/{config.pbtxt, 1/model.onnx}
    models/llm4sbr_tensorrt/{config.pbtxt, 1/model.onnx, 1/trtexec.sh [, 1/model.plan]}
    docker.sh  client.py  items.json

The second model is available once `model.plan` exists, which `trtexec.sh` builds on the GPU that will serve
it. `docker.sh` starts Triton with both models, and Triton reports which it could load.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from llm4sbr.exporting import ExportSpec, Scorer
from llm4sbr.serving.artefact import Provider
from llm4sbr.store import make_executable
from llm4sbr_export import triton_client
from llm4sbr_export.checks import Shapes
from llm4sbr_export.engine import ONNX
from llm4sbr_export.graph import Graph
from llm4sbr_export.onnx import Onnx, write
from llm4sbr_export.tensorrt import COMMAND, TensorRT, check_for_tensorrt, prepare, trtexec

if TYPE_CHECKING:
    from llm4sbr.fusion.model import LLM4SBR

NAME, ENGINE_NAME = "llm4sbr", "llm4sbr_tensorrt"
PLAN = "model.plan"

IMAGE = "nvcr.io/nvidia/tritonserver:25.08-py3"
"""Container for `docker.sh` unless `IMAGE` is set: CUDA 13.0, ONNX Runtime 1.23, TensorRT 10.13. The engine
is built inside it, so that TensorRT's version matches."""

QUEUE_DELAY = 1000
"""Maximum time in microseconds that a request waits to be batched with others."""

TYPES = {"int64": "TYPE_INT64", "bool": "TYPE_BOOL", "float32": "TYPE_FP32"}

START = """#!/bin/sh
# Starts Triton with the models beside this file; on a machine with a GPU the engine is built first, once, by
# the container that will run it. Asks: HTTP on 8000, gRPC on 8001, metrics on 8002.
set -e
cd "$(dirname "$0")"
IMAGE=${{IMAGE:-{image}}}
GPUS=
if command -v nvidia-smi > /dev/null; then
  GPUS="--gpus all"
  [ -e models/{engine}/1/{plan} ] || docker run --rm $GPUS -v "$PWD/models:/models" "$IMAGE" \\
    sh -c 'PATH="$PATH:/usr/src/tensorrt/bin" /models/{engine}/1/{command}'
fi
exec docker run --rm $GPUS -p 8000:8000 -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" "$IMAGE" \\
  tritonserver --model-repository=/models --exit-on-error=false
"""


class Triton:
    """Writes a model repository and scripts to start and query Triton.

    A precision other than fp32 applies to the engine; the ONNX model stays fp32.

    Args:
        provider: execution provider to use when the ONNX model is loaded again for verification.
    """

    suffix = ".triton"
    precisions = TensorRT.precisions

    def __init__(self, *, provider: Provider = "auto") -> None:
        self.provider = provider

    def export(self, model: LLM4SBR, example: Mapping[str, Tensor], path: Path, *, spec: ExportSpec) -> None:
        """Write `models` and scripts into the folder of `path`; arguments as in the protocol.

        Raises:
            ExportError: TensorRT does not support a graph.
            InputError: K is too large for TensorRT, or the model has no such intent mode or precision.
        """
        models = path.parent / "models"
        first, second = models / NAME / "1", models / ENGINE_NAME / "1"
        for folder in (first, second):
            folder.mkdir(parents=True)
        Onnx().export(model, example, first / ONNX, spec=spec._replace(precision="fp32"))
        graph = prepare(model, example, spec)
        write(graph, second / ONNX, about=spec.about)
        check_for_tensorrt(second / ONNX)
        _script(second / COMMAND, trtexec(graph, PLAN, Shapes(spec.max_batch, spec.max_length)))
        _configure(first.parent, graph, spec, backend="onnxruntime", file=ONNX, kind="KIND_AUTO")
        _configure(second.parent, graph, spec, backend="tensorrt", file=PLAN, kind="KIND_GPU")
        start = START.format(image=IMAGE, engine=ENGINE_NAME, plan=PLAN, command=COMMAND)
        _script(path.with_name("docker.sh"), start)
        shutil.copyfile(triton_client.__file__, path.with_name("client.py"))

    def load(self, path: Path) -> Scorer:
        """The repository's ONNX model in ONNX Runtime; Triton itself is not needed."""
        return Onnx(provider=self.provider).load(path.parent / "models" / NAME / "1" / ONNX)


def _script(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    make_executable(path)


def _configure(folder: Path, graph: Graph, spec: ExportSpec, *, backend: str, file: str, kind: str) -> None:
    """Write `config.pbtxt` and the input data of its warm-up requests."""
    warmups = []
    for clicks in sorted({1, spec.max_length}):
        name = f"{clicks}_clicks"
        warmups.append({"name": name, "batch_size": 1, "inputs": _warmup(folder / "warmup", graph, clicks)})
    sizes = sorted({max(1, spec.max_batch // 8), max(1, spec.max_batch // 2), spec.max_batch})
    outputs = [
        {"name": "item_ids", "data_type": "TYPE_INT64", "dims": [spec.k]},
        {"name": "scores", "data_type": "TYPE_FP32", "dims": [spec.k]},
    ]
    if spec.intent_mode == "predictor" and file == ONNX:  # the engine's graph does not return intents
        shape = [len(graph.model.horizons), graph.model.text_dim]
        outputs.append({"name": "intents", "data_type": "TYPE_FP32", "dims": shape})
    config: dict[str, Any] = {
        "name": folder.name,
        "backend": backend,
        "default_model_filename": file,
        "max_batch_size": spec.max_batch,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [
            {"name": name, "data_type": _type(value), "dims": _dims(name, value)}
            for name, value in graph.example().items()
        ],
        "output": outputs,
        "dynamic_batching": {"preferred_batch_size": sizes, "max_queue_delay_microseconds": QUEUE_DELAY},
        "instance_group": [{"count": 1, "kind": kind}],
        "model_warmup": warmups,
        "parameters": [
            {"key": key, "value": {"string_value": value}} for key, value in sorted(spec.about.items())
        ],
    }
    (folder / "config.pbtxt").write_text("\n".join(_lines(config)) + "\n", encoding="utf-8")


def _warmup(folder: Path, graph: Graph, clicks: int) -> list[dict[str, Any]]:
    """A warm-up request: one session of repeated clicks on item 1; Triton reads each input from a file."""
    folder.mkdir(exist_ok=True)
    entries = []
    for name, value in graph.example().items():
        shape = [clicks] if name in ("items", "mask") else list(value.shape[1:])
        file = f"{name}_{clicks}"
        np.ones(shape, _dtype(value)).tofile(folder / file)
        data = {"data_type": _type(value), "dims": shape, "input_data_file": file}
        entries.append({"key": name, "value": data})
    return entries


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _type(value: Tensor) -> str:
    return TYPES[_dtype(value)]


def _dims(name: str, value: Tensor) -> list[int]:
    return [-1] if name in ("items", "mask") else list(value.shape[1:])


def _lines(message: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A protobuf message in text format. Upper-case values are enum values and are not quoted."""
    for key, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield f"{indent}{key} {{"
                yield from _lines(one, indent + "  ")
                yield f"{indent}}}"
            elif isinstance(one, str) and not one.startswith(("TYPE_", "KIND_")):
                escaped = one.replace("\\", "\\\\").replace('"', '\\"')
                yield f'{indent}{key}: "{escaped}"'
            else:
                yield f"{indent}{key}: {one}"
