"""The exporter `onnx`: one graph, opset 20, dynamic batch size and length; the artefact of record."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llm4sbr.exporting import ExportSpec
from llm4sbr.serving.artefact import Provider, open_session, opened_index, provider_of
from llm4sbr.system import installation
from llm4sbr_export.checks import check_operators
from llm4sbr_export.graph import ALLOWED, Graph
from llm4sbr_export.heads import OPSET
from llm4sbr_export.index import QueryGraph, write_index

if TYPE_CHECKING:
    from llm4sbr.fusion.model import LLM4SBR

INPUTS = {"items": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}}
INPUTS |= {"exclude_seen": {0: "batch"}, "intents": {0: "batch"}, ALLOWED: {}}
"""Dynamic dimensions, by input."""

OUTPUTS = ("item_ids", "scores")

ADDING = "ScatterElements with reduction = add"
"""Sums over all clicks. TensorRT cannot do that, its exporters write them click by click."""

CPU_ONLY = ("MatMulInteger",)
"""Operators of 8-bit tables that TensorRT does not support."""

MAPPED = 2**26
"""Weights above this size in bytes are mapped from a file of their own: opening does not parse and copy them,
and of tables that are read row by row only the rows that were read count as memory."""

MOST_INSIDE = 2**31 - 2**24
"""Maximum size of weights inside the ONNX file in bytes; protobuf is limited to 2 GiB."""


class Onnx:
    """Writes `model.onnx`, and `model.onnx.data` if the weights are too large for one file.

    Args:
        most_inside: weights above this size in bytes get their own file.
        provider: execution provider to use when the graph is loaded again.
        threads: threads of ONNX Runtime; by default one per core.
    """

    suffix = ".onnx"
    precisions = ("fp32", "int8", "index")

    def __init__(
        self,
        *,
        most_inside: int = MAPPED,
        provider: Provider = "auto",
        threads: int | None = None,
    ) -> None:
        self.most_inside = most_inside
        self.provider = provider
        self.threads = threads

    def export(self, model: LLM4SBR, example: Mapping[str, Tensor], path: Path, *, spec: ExportSpec) -> None:
        """Write the graph to `path`; arguments as for the protocol.

        Raises:
            ExportError: the graph has an operator that TensorRT does not take.
            InputError: the model has no such intent mode or precision, or K is larger than the catalogue.
            ModelUnavailableError: a package is not installed.
        """
        indexed = spec.precision == "index"
        ends = {"with_intents": True, "with_query": not indexed, "filtered": not indexed}
        graph = Graph(model, k=spec.k, intent_mode=spec.intent_mode, precision=spec.precision, **ends)
        written = QueryGraph(graph) if indexed else graph
        write(written, path, about=spec.about, most_inside=self.most_inside)
        if indexed:
            write_index(graph, path, example, spec)
        check_operators(path, allowed=(ADDING, *(CPU_ONLY if spec.precision == "int8" else ())))

    def load(self, path: Path) -> OnnxScorer:
        """The graph at `path`, ready to score; errors as `open_session`."""
        return OnnxScorer(path, provider=self.provider, threads=self.threads)


class OnnxScorer:
    """A graph loaded in ONNX Runtime.

    Args:
        path: the `.onnx` file.
        provider: required execution provider.
        threads: by default one per core.
    """

    def __init__(self, path: Path, *, provider: Provider = "auto", threads: int | None = None) -> None:
        self.session = open_session(path, provider=provider, threads=threads)
        self.provider = provider_of(self.session)
        self.search, self.k = opened_index(path.parent, self.session)

    def score(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Item ids int64 (B, K) and scores float32 (B, K) for the graph's inputs by name."""
        feed = {name: value.numpy() for name, value in inputs.items()}
        if self.search is None:
            ids, scores = self.session.run(list(OUTPUTS), feed)
        else:
            ids, scores = self.search.answer(self.session, feed, self.k)
        return torch.from_numpy(np.asarray(ids)), torch.from_numpy(np.asarray(scores))


def write(
    graph: Graph | QueryGraph, path: Path, *, about: Mapping[str, str], most_inside: int = MOST_INSIDE
) -> None:
    """Write a graph to `path` with `about` as metadata; weights above `most_inside` bytes are external."""
    program = _trace(graph)
    ends = (*program.model.graph.inputs, *program.model.graph.outputs)
    shapes = {f"shape of {value.name}": str(value.shape) for value in ends}
    program.model.metadata_props.update({**about, **shapes})
    _save(program.model, path, most_inside=most_inside)


def _optional(model: Any) -> None:
    """Give the input for filters, if there is one, its default and sizes of its own."""
    import onnx_ir as ir

    value = next((one for one in model.graph.inputs if one.name == ALLOWED), None)
    if value is not None:
        value.const_value = ir.tensor(np.zeros((1, 1), np.float32), name=ALLOWED)
        value.shape = ir.Shape(["filters", "filtered"])
        model.graph.register_initializer(value)


def _trace(graph: Graph | QueryGraph) -> Any:
    try:
        import onnxscript  # noqa: F401  needed by torch's exporter
    except ModuleNotFoundError as error:
        raise installation.not_installed(f"{error.name}, which ONNX export needs,", "onnx") from None
    example = graph.example()
    with _quiet(), torch.no_grad():
        return torch.onnx.export(
            graph.eval(),
            kwargs=dict(example),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={name: INPUTS[name] for name in example},
            input_names=list(example),
            output_names=graph.outputs,
            verbose=False,
        )


def _save(model: Any, path: Path, *, most_inside: int) -> None:
    import onnx_ir as ir
    from onnx_ir.passes.common import DeduplicateInitializersPass

    DeduplicateInitializersPass()(model)
    _optional(model)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    outside = f"{path.name}.data" if size > most_inside else None
    ir.save(model, path, external_data=outside)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about its internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
