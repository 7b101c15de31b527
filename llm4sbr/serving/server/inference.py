"""The Open Inference Protocol, version 2: tensors in JSON or, as an extension, in binary.

Read as Triton's documents define it: binary data follows the JSON in the order of the inputs, and the
header `Inference-Header-Content-Length` says where the JSON ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.server.batching import PendingRequest, ScoredList
from llm4sbr.serving.server.http import Refusal, Reply, parse_json
from llm4sbr.serving.server.settings import Settings

LENGTH = b"inference-header-content-length"

DIGITS = 18
"""Maximum number of digits of an integer; Python refuses to parse thousands of digits."""

OUTPUTS = {"item_ids": "INT64", "scores": "FP32"}
"""Outputs of every model."""

INTENTS = "intents"
"""The output of models that predict or look up intents."""

KIND = OUTPUTS | {INTENTS: "FP32"}
"""Output -> data type."""

DTYPES: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4"), "BOOL": np.dtype("?")}
"""Data type of the protocol -> numpy dtype."""

TYPES: dict[str, set[type]] = {"INT64": {int}, "FP32": {int, float}, "BOOL": {bool}}
"""Data type -> allowed Python types of its values in JSON."""

KINDS = {"INT64": "i", "FP32": "if", "BOOL": "b"}
"""Data type -> allowed kinds of numpy array made from JSON values."""

LOWEST = np.finfo(np.float32).min
"""Replaces minus infinity, the score for missing items, which JSON does not have."""

Array = NDArray[Any]


class Query(NamedTuple):
    """A valid inference request."""

    job: PendingRequest
    id: str | None
    outputs: dict[str, bool]
    """Name of a requested output -> whether in binary."""


def inputs_of(artefact: Artefact) -> dict[str, tuple[str, list[int]]]:
    """Name -> data type and shape (-1 where any size goes) of what the model takes.

    `items` alone is required: `mask` follows from it, `exclude_seen` is as in training, `intents` unknown.
    """
    found = {"items": ("INT64", [-1, -1]), "mask": ("BOOL", [-1, -1]), "exclude_seen": ("BOOL", [-1, 1])}
    if artefact.takes_intents:
        found["intents"] = ("FP32", [-1, len(artefact.perspectives), artefact.text_dim])
    return found


def outputs_of(artefact: Artefact) -> dict[str, tuple[str, list[int]]]:
    """Name -> data type and shape of what the model can give; `intents` only if a request names it."""
    found = {name: (kind, [-1, artefact.k]) for name, kind in OUTPUTS.items()}
    if artefact.tells_intents:
        found[INTENTS] = ("FP32", [-1, len(artefact.perspectives), artefact.text_dim])
    return found


def read(body: bytes, length: bytes | None, artefact: Artefact, settings: Settings) -> Query:
    """The request in a body, `length` being the header that says where its JSON ends.

    Raises:
        Refusal: 400, and what is wrong where.
    """
    end = _json_end(length, len(body))
    return query(parse_json(body[:end]), memoryview(body)[end:], artefact, settings)


def query(request: dict[str, Any], binary: memoryview, artefact: Artefact, settings: Settings) -> Query:
    """The request in a JSON object and the binary data that follows it; errors as for `read`."""
    tensors = _tensors(request, binary, inputs_of(artefact))
    asked = request.get("id")
    if asked is not None and not isinstance(asked, str):
        raise Refusal(400, "id: expected a text")
    outputs = _outputs(request, outputs_of(artefact))
    job = _job(tensors, artefact, settings)
    return Query(job._replace(tell_intents=INTENTS in outputs), asked, outputs)


def arrays(query: Query, answer: ScoredList) -> dict[str, Array]:
    """The requested outputs by name.

    Raises:
        Refusal: 400, finite intents were so large that the scores are not.
    """
    if query.job.intents is not None and not (answer.scores < np.inf).all():  # nor NaN
        raise Refusal(400, "intents: too large, the scores are no numbers; vectors of length 1 are expected")
    values = {"item_ids": answer.ids, "scores": answer.scores, INTENTS: answer.intents}
    return {name: np.ascontiguousarray(values[name], DTYPES[KIND[name]]) for name in query.outputs}


def write(query: Query, answer: ScoredList, name: str, version: str) -> Reply:
    """The reply to a request; errors as for `arrays`."""
    head: dict[str, Any] = {"model_name": name, "model_version": version}
    if query.id is not None:
        head["id"] = query.id
    outputs, binary = [], []
    for key, value in arrays(query, answer).items():
        output: dict[str, Any] = {"name": key, "datatype": KIND[key], "shape": list(value.shape)}
        if query.outputs[key]:
            binary.append(value.tobytes())
            outputs.append(output | {"parameters": {"binary_data_size": len(binary[-1])}})
        else:
            if key == "scores":
                value = np.maximum(value, LOWEST)
            outputs.append(output | {"data": value.reshape(-1)})
    text = orjson.dumps(head | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Reply(text)
    headers = ((LENGTH, str(len(text)).encode()),)
    return Reply(b"".join([text, *binary]), type=b"application/octet-stream", headers=headers)


def _json_end(length: bytes | None, size: int) -> int:
    if length is None:
        return size
    if not length.isdigit() or len(length) > DIGITS or int(length) > size:
        raise Refusal(400, f"Inference-Header-Content-Length: not a number from 0 to {size}, the body's size")
    return int(length)


def _tensors(
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
            raise Refusal(400, f"inputs: {_short(name)} is not one of {', '.join(known)}")
        if name in found:
            raise Refusal(400, f"{name}: given twice")
        kind, shape = known[name]
        if one.get("datatype") != kind:
            raise Refusal(400, f"{name}: datatype {_short(one.get('datatype'))}, expected {kind}")
        sizes = _shape(name, one.get("shape"), shape)
        parameters = _parameters(one)
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
        raise Refusal(400, f"{name}: shape {_short(given)}, expected {len(expected)} sizes of at least 1")
    if any(want not in (-1, size) for size, want in zip(given, expected, strict=True)):
        raise Refusal(400, f"{name}: shape {_short(given)}, expected {expected}, -1 standing for any size")
    return given


def _parameters(one: dict[str, Any]) -> dict[str, Any]:
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
        raise Refusal(400, f"{name}: binary_data_size {_short(size)}, expected {expected}")
    if len(data) < size:
        raise Refusal(400, f"{name}: {size} bytes of binary data announced, {len(data)} are there")
    if kind == "BOOL":
        return np.frombuffer(data[:size], np.uint8).reshape(shape).astype(np.bool_)
    return np.frombuffer(data[:size], DTYPES[kind]).reshape(shape)


def _job(tensors: dict[str, Array], artefact: Artefact, settings: Settings) -> PendingRequest:
    items = tensors["items"]
    rows, length = items.shape
    if rows > settings.max_batch:
        raise Refusal(400, f"items: {rows} sessions, at most {settings.max_batch} go into one request")
    if length > artefact.max_length:
        raise Refusal(400, f"items: {length} clicks, at most {artefact.max_length} are allowed")
    mask = tensors.get("mask", items != 0)
    exclude = tensors.get("exclude_seen", np.full((rows, 1), artefact.exclude_seen))
    intents = tensors.get("intents")
    if mask.shape != items.shape or len(exclude) != rows or (intents is not None and len(intents) != rows):
        raise Refusal(400, "mask, exclude_seen, intents: as many sessions as items, and mask of its shape")
    if not mask.all() or items.min() < 1 or items.max() > artefact.num_items:
        _check_clicks(items, mask, artefact.num_items)
        items = np.where(mask, items, 0)
    if artefact.takes_intents:
        if intents is None:
            intents = np.zeros((rows, len(artefact.perspectives), artefact.text_dim), np.float32)
        if not np.isfinite(intents).all():
            raise Refusal(400, "intents: not all values are finite; send zeros where no intent is known")
    return PendingRequest(items, mask, exclude, intents)


def _check_clicks(items: Array, mask: Array, size: int) -> None:
    some = mask.any(1)
    if not some.all():
        raise Refusal(400, f"items: session {int(some.argmin())} is empty")
    gaps = (mask[:, 1:] & ~mask[:, :-1]).any(1)
    if gaps.any():
        row = int(gaps.argmax())
        where = "in between" if mask[row, 0] else "on the left"
        raise Refusal(
            400,
            f"items: session {row} is padded {where}; clicks go oldest first, padding (id 0 or a false mask) "
            "to the right of them",
        )
    wrong = mask & ((items < 1) | (items > size))
    if wrong.any():
        row = int(wrong.any(1).argmax())
        raise Refusal(400, f"items: session {row}: {items[wrong][0]} is not a catalogue id in 1..{size}")


def _outputs(request: dict[str, Any], known: Collection[str]) -> dict[str, bool]:
    """The requested outputs, ids and scores if none is named, and which are in binary."""
    default = _flag(_parameters(request), "binary_data_output", False)
    given = request.get("outputs")
    if given is None or given == []:
        return dict.fromkeys(OUTPUTS, default)
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise Refusal(400, "outputs: expected a list of objects with a name")
    found: dict[str, bool] = {}
    for one in given:
        name = one.get("name")
        if not isinstance(name, str) or name not in known:
            raise Refusal(400, f"outputs: {_short(name)} is not one of {', '.join(known)}")
        parameters = _parameters(one)
        if "shared_memory_region" in parameters:
            raise Refusal(400, f"{name}: shared memory is not supported; leave shared_memory_region out")
        if parameters.get("classification"):
            raise Refusal(400, f"{name}: classification is not supported; item_ids are the best already")
        found[name] = _flag(parameters, "binary_data", default)
    return found


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"{name}: expected true or false")
    return value


def _short(value: object) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
