"""Between the messages of gRPC and the requests and replies of `inference`."""

from __future__ import annotations

from typing import Any

from llm4sbr.serving.server import inference
from llm4sbr.serving.server.http import Refusal
from llm4sbr.serving.server.rpc.messages import message

CONTENTS = {"INT64": "int64_contents", "FP32": "fp32_contents", "BOOL": "bool_contents"}
"""Data type -> field with its values."""


def unpack(request: Any) -> tuple[dict[str, Any], bytes]:
    """A `ModelInferRequest` as the request in JSON would be, and the binary data that would follow it.

    Raises:
        Refusal: 400, values both raw and typed, or not raw for every input.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise Refusal(400, f"raw_input_contents: {len(raw)} for {len(request.inputs)} inputs")
    inputs = []
    for number, one in enumerate(request.inputs):
        told: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
        told["parameters"] = _parameters(one)
        told["parameters"].pop("binary_data_size", None)
        if raw:
            told["parameters"]["binary_data_size"] = len(raw[number])
        else:
            told["data"] = list(getattr(one.contents, CONTENTS.get(one.datatype, "bytes_contents")))
        if raw and one.HasField("contents"):
            raise Refusal(400, f"{one.name:.60}: has contents, though raw_input_contents are given")
        inputs.append(told)
    outputs = [{"name": one.name, "parameters": _parameters(one)} for one in request.outputs]
    found = {"inputs": inputs, "outputs": outputs, "parameters": _parameters(request)}
    return found | {"id": request.id or None}, b"".join(raw)


def pack(query: inference.Query, answer: inference.Answered, name: str, version: str) -> Any:
    """The `ModelInferResponse`, with raw contents; errors as for `inference.arrays`."""
    found = message("ModelInferResponse")(model_name=name, model_version=version, id=query.id or "")
    for key, text in answer.parameters.items():
        found.parameters[key].string_param = text
    for key, value in inference.arrays(query, answer).items():
        found.outputs.add(name=key, datatype=inference.KIND[key], shape=value.shape)
        found.raw_output_contents.append(value.tobytes())
    return found


def _parameters(one: Any) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in one.parameters.items()}
    return {name: getattr(one.parameters[name], kind) for name, kind in chosen.items() if kind}
