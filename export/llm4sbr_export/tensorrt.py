"""The exporter `tensorrt`: the same graph as an engine for this machine's GPU.

Precision is part of the graph, since networks are strongly typed: `fp16` and `int8` select candidates with a
smaller table and score those in float32 (see `heads`); sessions are always encoded in float32. The documented
target is the A100 (SM80). The ONNX file is kept next to the engine; it is the artefact of record, and ONNX
Runtime can run it too, also with its own TensorRT provider.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm4sbr.errors import DeviceError, ExportError, InputError, ModelUnavailableError
from llm4sbr.exporting import ExportSpec, Scorer
from llm4sbr.store import make_executable
from llm4sbr_export.checks import Shapes, objections
from llm4sbr_export.engine import ONNX, EngineScorer, Key, build, made_for, mismatch
from llm4sbr_export.graph import Graph
from llm4sbr_export.heads import MOST_K
from llm4sbr_export.onnx import write

if TYPE_CHECKING:
    from llm4sbr.fusion.model import LLM4SBR

COMMAND = "trtexec.sh"
HEADS = {"fp32": "fp32", "fp16": "fp16", "int8": "qdq"}
"""Precision -> first pass of the graph."""


class TensorRT:
    """Writes `model.onnx`, `trtexec.sh` and, if there is a GPU, `model.engine` with `engine.json`.

    Args:
        provider: `auto` or `tensorrt`: the engine runs through TensorRT's own API.
    """

    suffix = ".engine"
    precisions = ("fp32", "fp16", "int8")

    def __init__(self, *, provider: str = "auto") -> None:
        if provider not in ("auto", "tensorrt"):
            raise InputError(f"provider {provider}: an engine is run by TensorRT only; leave it out")

    def export(self, model: LLM4SBR, example: Mapping[str, Tensor], path: Path, *, spec: ExportSpec) -> None:
        """Write the ONNX file and the `trtexec` command, then build the engine; arguments as in the protocol.

        Raises:
            DeviceError: there is no GPU or no TensorRT; ONNX file and command have been written all the same.
            ExportError: TensorRT does not support the graph.
            InputError: K is too large for TensorRT, or the model has no such intent mode or precision.
        """
        shapes = Shapes(spec.max_batch, spec.max_length)
        onnx = path.with_name(ONNX)
        graph = prepare(model, example, spec)
        write(graph, onnx, about=spec.about)
        check_for_tensorrt(onnx)
        script = path.with_name(COMMAND)
        script.write_text(trtexec(graph, path.name, shapes), encoding="utf-8")
        make_executable(script)
        try:
            key = Key.here(onnx, precision=spec.precision, shapes=shapes)
        except (DeviceError, ModelUnavailableError) as error:
            raise DeviceError(f"{error}; on a machine that has one, {COMMAND} builds the engine") from None
        build(onnx, path, key=key, shapes=shapes)

    def load(self, path: Path) -> Scorer:
        """The engine at `path`; rebuilt if it is for another GPU, TensorRT version or ONNX file.

        Raises:
            DeviceError: there is no GPU.
            StoreError: the engine's key is missing or cannot be read.
        """
        precision, shapes = made_for(path)
        key = Key.here(path.with_name(ONNX), precision=precision, shapes=shapes)
        if mismatch(path, key):
            build(path.with_name(ONNX), path, key=key, shapes=shapes)
        return EngineScorer(path, shapes=shapes)


def prepare(model: LLM4SBR, example: Mapping[str, Tensor], spec: ExportSpec) -> Graph:
    """The graph in the requested precision; for int8, ranges are measured on the example's real sessions.

    Raises:
        InputError: K is too large for TensorRT, or the model has no such intent mode or precision.
    """
    if spec.k > MOST_K:
        raise InputError(f"k = {spec.k}: TensorRT makes lists of at most {MOST_K} items")
    head = HEADS[spec.precision]
    wanted: Any = {"k": spec.k, "intent_mode": spec.intent_mode, "most_clicks": spec.max_length}
    if head != "qdq":
        return Graph(model, precision=head, **wanted)
    exact = Graph(model, **wanted)
    with torch.inference_mode():
        output = model.represent(
            example["items"], example["mask"], example.get("intents"), predict=spec.intent_mode == "predictor"
        )
        largest = max(float(query.abs().max()) for query in exact.queries(output))
    return Graph(model, precision=head, query_range=largest, **wanted)


def check_for_tensorrt(onnx: Path) -> None:
    """Raise `ExportError` if TensorRT does not support an operator, or the list length, of an ONNX file."""
    if found := sorted(set(objections(onnx))):
        raise ExportError(f"{onnx.name}: TensorRT does not take {', '.join(found)}")


def trtexec(graph: Graph, engine: str, shapes: Shapes) -> str:
    """A shell script that builds the engine with TensorRT's own tool, in the script's folder."""
    parts: list[list[str]] = [[], [], []]
    for name, value in graph.example().items():
        for part, shape in zip(parts, shapes.of(name, value.shape[1:]), strict=True):
            part.append(f"{name}:{'x'.join(map(str, shape))}")
    least, common, most = (",".join(part) for part in parts)
    arguments = ["trtexec", f"--onnx={ONNX}", f"--saveEngine={engine}", f"--minShapes={least}"]
    arguments += [f"--optShapes={common}", f"--maxShapes={most}", "--timingCacheFile=timing.cache"]
    command = " \\\n  ".join(shlex.quote(argument) for argument in arguments)
    return f'#!/bin/sh\nset -e\ncd "$(dirname "$0")"\n{command}\n'
