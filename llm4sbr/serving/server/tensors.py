"""The tensors of a request of the Open Inference Protocol, from JSON or from binary data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4sbr.serving.server.http import Refusal

DTYPES: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4"), "BOOL": np.dtype("?")}
"""Data type of the protocol -> numpy dtype."""

TYPES: dict[str, set[type]] = {"INT64": {int}, "FP32": {int, float}, "BOOL": {bool}}
"""Data type -> allowed Python types of its values in JSON."""

KINDS = {"INT64": "i", "FP32": "if", "BOOL": "b"}
"""Data type -> allowed kinds of numpy array made from JSON values."""

Array = NDArray[Any]


def tensors_of(
    request: dict[str, Any], binary: memoryview, known: dict[str, tuple[str, list[int]]]
) -> dict[str, Array]:
    """Name -> array of the data type and shape that the request states."""
    given = request.get("inputs")
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise Refusal(400, "inputs: expected a list of tensors")
    found: dict[str, Array] = {}
    at = 0
    for one in given:
        name = one.get("name")
        if not isinstance(name, str) or name not in known:
            raise Refusal(400, f"inputs: {short(name)} is not one of {', '.join(known)}")
        if name in found:
            raise Refusal(400, f"{name}: given twice")
        kind, shape = known[name]
        if one.get("datatype") != kind:
            raise Refusal(400, f"{name}: datatype {short(one.get('datatype'))}, expected {kind}")
        sizes = _shape(name, one.get("shape"), shape)
        parameters = parameters_of(one)
        if "shared_memory_region" in parameters:
            raise Refusal(400, f"{name}: shared memory is not supported; send the data itself")
        size = parameters.get("binary_data_size")
        if size is None:
            found[name] = _from_json(name, one.get("data"), kind, sizes)
        else:
            found[name] = _from_binary(name, binary[at:], size, kind, sizes)
            at += size
    if at != len(binary):
        raise Refusal(400, f"{len(binary) - at} bytes are left after the last input")
    if "items" not in found:
        raise Refusal(400, "inputs: items is missing")
    return found


def _shape(name: str, given: object, expected: list[int]) -> list[int]:
    good = isinstance(given, list) and all(type(size) is int and size > 0 for size in given)
    if not good or not isinstance(given, list) or len(given) != len(expected):
        raise Refusal(400, f"{name}: shape {short(given)}, expected {len(expected)} sizes of at least 1")
    if any(want not in (-1, size) for size, want in zip(given, expected, strict=True)):
        raise Refusal(400, f"{name}: shape {short(given)}, expected {expected}, -1 standing for any size")
    return given


def parameters_of(one: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request, an input or an output; `Refusal` 400 if they are none."""
    found = one.get("parameters") or {}
    if not isinstance(found, dict):
        raise Refusal(400, "parameters: expected an object")
    return found


def _from_json(name: str, data: object, kind: str, shape: list[int]) -> Array:
    wrong = Refusal(400, f"{name}: data is missing or holds other values than {kind}")
    # Checked first: numpy makes every text of an array as long as its longest, so one body could take
    # gigabytes.
    if not types_of(data) <= TYPES[kind]:
        raise wrong
    try:
        array = np.asarray(data)
    except ValueError:
        raise Refusal(400, f"{name}: the rows of data differ in length") from None
    if array.dtype.kind not in KINDS[kind]:  # none at all, or too large ones
        raise wrong
    if array.size != math.prod(shape) or (array.ndim > 1 and list(array.shape) != shape):
        raise Refusal(400, f"{name}: data has the shape {list(array.shape)}, not {shape}")
    if kind != "FP32":
        return array.reshape(shape).astype(DTYPES[kind], copy=False)
    with np.errstate(over="ignore"):  # infinity is refused with the other values that are not finite
        return array.reshape(shape).astype(DTYPES[kind])


def types_of(data: object) -> set[type]:
    """The types of all values in lists of lists, however deep."""
    found: set[type] = set()
    level = data if isinstance(data, list) else [data]
    while True:
        types = set(map(type, level))
        found |= types - {list}
        if list not in types:
            return found
        level = [one for part in level if isinstance(part, list) for one in part]


def _from_binary(name: str, data: memoryview, size: object, kind: str, shape: list[int]) -> Array:
    expected = math.prod(shape) * DTYPES[kind].itemsize
    if type(size) is not int or size != expected:
        raise Refusal(400, f"{name}: binary_data_size {short(size)}, expected {expected}")
    if len(data) < size:
        raise Refusal(400, f"{name}: {size} bytes of binary data announced, {len(data)} are there")
    if kind == "BOOL":
        return np.frombuffer(data[:size], np.uint8).reshape(shape).astype(np.bool_)
    return np.frombuffer(data[:size], DTYPES[kind]).reshape(shape)


def short(value: object) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
