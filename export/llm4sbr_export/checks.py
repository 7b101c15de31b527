"""Checks an ONNX file without a GPU: are its operators supported, and can TensorRT-RTX compile it?

The list of supported operators is data with its source, `operators.json`. Compiling ahead of time needs the
extra `rtx`; it shows that TensorRT-RTX accepts graph and profile for a GPU, not that a GPU has run it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr.errors import ExportError
from llm4sbr.system import installation

TARGET = "SM80"
"""Compute capability to compile for: that of the A100."""


class Shapes(NamedTuple):
    """The optimisation profile: the sizes that an engine is built for."""

    max_batch: int
    max_length: int
    common_batch: int = 8
    """Kernels are tuned for this size and `common_length`."""
    common_length: int = 16

    def of(self, name: str, fixed: Sequence[int]) -> list[tuple[int, ...]]:
        """Minimum, common and maximum shape of an input; `fixed` are the dimensions after dynamic ones."""
        batches = (1, min(self.common_batch, self.max_batch), self.max_batch)
        lengths = (1, min(self.common_length, self.max_length), self.max_length)
        if name in ("items", "mask"):
            return list(zip(batches, lengths, strict=True))
        return [(batch, *fixed) for batch in batches]


@cache
def supported() -> dict[str, Any]:
    """The content of `operators.json`: what TensorRT supports, and the source of that list."""
    content: dict[str, Any] = json.loads((files(__package__) / "operators.json").read_text("utf-8"))
    return content


def check_operators(path: Path, *, allowed: Sequence[str] = ()) -> None:
    """Raise `ExportError` if TensorRT does not support an operator of the graph.

    Args:
        path: the `.onnx` file; external weights are not read.
        allowed: further operators, as `objections` name them, for a graph that is not meant for TensorRT.
    """
    found = sorted(set(objections(path)) - {f"operator {name}" for name in allowed})
    if found:
        raise ExportError(f"{path.name}: TensorRT does not take {', '.join(found)}")


def objections(path: Path) -> Iterator[str]:
    """What TensorRT does not support: operators, scatters that add, opset versions, too long lists."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    known = supported()
    least, most = known["opsets"]
    for one in model.opset_import:
        if one.domain in ("", "ai.onnx") and not least <= one.version <= most:
            yield f"opset {one.version}"
    numbers = _numbers(model.graph)
    for node in _nodes(model.graph):
        if node.domain not in ("", "ai.onnx"):
            yield f"operator {node.domain}::{node.op_type}"
        elif node.op_type not in known["operators"]:
            yield f"operator {node.op_type}"
        elif (
            node.op_type == "TopK" and not numbers.get(node.input[1], known["most_k"] + 1) <= known["most_k"]
        ):
            yield f"TopK with K = {numbers.get(node.input[1], 'an input')} (at most {known['most_k']})"
        elif node.op_type == "ScatterElements" and (how := _reduction(node)) != "none":
            yield f"operator ScatterElements with reduction = {how}"


def compile_ahead(path: Path, shapes: Shapes, *, target: str = TARGET) -> bytes:
    """Compile an ONNX file with TensorRT-RTX, for a GPU that need not be present.

    Args:
        path: the `.onnx` file.
        shapes: the profile.
        target: compute capability, such as `SM80`.

    Raises:
        ExportError: the file cannot be parsed or compiled; the message quotes the parser or builder.
    """
    try:
        import tensorrt_rtx as trt
    except ImportError:
        raise installation.not_installed("tensorrt_rtx", "rtx") from None
    words = Words(trt)
    builder = trt.Builder(words.logger)
    network, config = parse(trt, builder, words, path, shapes)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    return built(builder, network, config, words, path)


def parse(trt: Any, builder: Any, words: Words, path: Path, shapes: Shapes) -> tuple[Any, Any]:
    """Network and build settings for an ONNX file and a profile, for TensorRT or TensorRT-RTX.

    Networks are strongly typed: the default since TensorRT 11, a flag before.
    """
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, words.logger)
    if not parser.parse_from_file(str(path)):
        reasons = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
        raise ExportError(f"{path.name}: {trt.__name__} cannot parse it: {reasons}; {words}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        one = network.get_input(number)
        profile.set_shape(one.name, *shapes.of(one.name, tuple(one.shape)[1:]))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"{path.name}: {trt.__name__} refuses the profile {shapes}: {words}")
    return network, config


def built(builder: Any, network: Any, config: Any, words: Words, path: Path) -> bytes:
    """The serialized engine; raises `ExportError` with the builder's messages if it cannot be built."""
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f"{path.name}: cannot be built: {words}")
    return bytes(engine)


class Words:
    """Collects TensorRT's messages instead of printing them.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
    """

    def __init__(self, trt: Any) -> None:
        self.lines: list[str] = []
        lines, severe = self.lines, (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc]
            def log(self, severity: Any, message: str) -> None:
                if severity in severe:
                    lines.append(" ".join(message.split()))

        self.logger = Logger()

    def __str__(self) -> str:
        return "; ".join(self.lines[-2:])[:400] or "no reason given"


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, including those of subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _nodes(inner)


def _reduction(node: Any) -> str:
    return next((one.s.decode() for one in node.attribute if one.name == "reduction"), "none")


def _numbers(graph: Any) -> dict[str, int]:
    """Scalar constants by name."""
    from onnx import numpy_helper

    constants = {
        one.name: one for one in graph.initializer if one.data_type == 7 and list(one.dims) in ([], [1])
    }
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    arrays = {name: numpy_helper.to_array(one) for name, one in constants.items()}
    return {name: int(array.item()) for name, array in arrays.items() if array.size == 1}
