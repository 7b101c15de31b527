"""The Open Inference Protocol, version 2: tensors in JSON or, as an extension, in binary.

Read as Triton's documents define it: binary data follows the JSON in the order of the inputs, and the
header `Inference-Header-Content-Length` says where the JSON ends.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from llm4sbr.errors import InputError
from llm4sbr.serving.answering import POPULAR
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.server import choosing
from llm4sbr.serving.server.batching import PendingRequest
from llm4sbr.serving.server.choosing import Chosen
from llm4sbr.serving.server.http import Refusal, Reply, parse_json
from llm4sbr.serving.server.sessions import Sessions, usable
from llm4sbr.serving.server.settings import Settings
from llm4sbr.serving.server.tensors import DTYPES, Array, parameters_of, short, tensors_of

if TYPE_CHECKING:
    from llm4sbr.serving.server.models import Model

LENGTH = b"inference-header-content-length"

DIGITS = 18
"""Maximum number of digits of an integer; Python refuses to parse thousands of digits."""

OUTPUTS = {"item_ids": "INT64", "scores": "FP32"}
"""Outputs of every model."""

INTENTS = "intents"
"""The output of models that predict or look up intents."""

KIND = OUTPUTS | {INTENTS: "FP32"}
"""Output -> data type."""

RESERVED = ("binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout")
"""Parameters that Triton's clients may send."""

LOWEST = np.finfo(np.float32).min
"""Replaces minus infinity, the score for missing items, which JSON does not have."""


class Query(NamedTuple):
    """A valid inference request."""

    job: PendingRequest
    id: str | None
    outputs: dict[str, bool]
    """Name of a requested output -> whether in binary."""
    chosen: Chosen
    sessions: Sessions


class Answered(NamedTuple):
    """The answer to a request."""

    ids: Array
    """int64 (B, K)."""
    scores: Array
    """float32 (B, K)."""
    intents: Array | None
    """float32 (B, P, E), if they are wanted."""
    parameters: dict[str, str]
    """What else there is to know: `left_out`, a list of unknown ids per session as JSON, and `notes`."""


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
    tensors = tensors_of(request, binary, inputs_of(artefact))
    asked = request.get("id")
    if asked is not None and not isinstance(asked, str):
        raise Refusal(400, "id: expected a text")
    outputs = _outputs(request, outputs_of(artefact))
    parameters = parameters_of(request)
    for name in parameters:
        if name not in (*choosing.FIELDS, *RESERVED) and not name.startswith("triton_"):
            raise Refusal(400, f"parameters: {short(name)} is not one of {', '.join(choosing.FIELDS)}")
    chosen = choosing.read(parameters, artefact, k=artefact.k)
    job, sessions = _job(tensors, artefact, settings, skip=chosen.unknown == "skip")
    return Query(job._replace(tell_intents=INTENTS in outputs), asked, outputs, chosen, sessions)


async def compute(query: Query, model: Model) -> Answered:
    """The answer to a request.

    Raises:
        Refusal: 429, too many sessions wait already.
        InputError: there is no such attribute or filter, or nothing is known of a session or how often items
            are clicked.
    """
    allowed = await model.allowed(query.chosen)
    job = query.job if allowed is None else query.job._replace(allowed=allowed.added)
    found = await model.batcher.submit(job)
    ids, scores = found.ids[:, : query.chosen.k], found.scores[:, : query.chosen.k]
    notes = [*allowed.notes] if allowed else []
    sessions = query.sessions
    if sessions.unknown is not None:
        popular = model.artefact.attributes.popular(query.chosen.k, job.allowed)
        if popular is None:
            row = int(sessions.unknown.argmax())
            raise InputError(f"items: session {row}: {sessions.left_out[row][0]} is unknown, and all others")
        ids, scores = ids.copy(), scores.copy()
        ids[sessions.unknown], scores[sessions.unknown] = 0, -np.inf
        for place, (id, clicks) in enumerate(popular):
            ids[sessions.unknown, place], scores[sessions.unknown, place] = id, clicks
        rows = ", ".join(map(str, np.flatnonzero(sessions.unknown)))
        notes.append(f"nothing is known of session {rows}: {POPULAR}")
    told = {"left_out": json.dumps(sessions.left_out)} if sessions.left_out else {}
    return Answered(ids, scores, found.intents, told | ({"notes": "; ".join(notes)} if notes else {}))


def arrays(query: Query, answer: Answered) -> dict[str, Array]:
    """The requested outputs by name.

    Raises:
        Refusal: 400, finite intents were so large that the scores are not.
    """
    if query.job.intents is not None and not (answer.scores < np.inf).all():  # nor NaN
        raise Refusal(400, "intents: too large, the scores are no numbers; vectors of length 1 are expected")
    values = {"item_ids": answer.ids, "scores": answer.scores, INTENTS: answer.intents}
    return {name: np.ascontiguousarray(values[name], DTYPES[KIND[name]]) for name in query.outputs}


def write(query: Query, answer: Answered, name: str, version: str) -> Reply:
    """The reply to a request; errors as for `arrays`."""
    head: dict[str, Any] = {"model_name": name, "model_version": version}
    if query.id is not None:
        head["id"] = query.id
    if answer.parameters:
        head["parameters"] = answer.parameters
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


def _job(
    tensors: dict[str, Array], artefact: Artefact, settings: Settings, *, skip: bool
) -> tuple[PendingRequest, Sessions]:
    items = tensors["items"]
    rows, length = items.shape
    if rows > settings.max_batch:
        raise Refusal(400, f"items: {rows} sessions, at most {settings.max_batch} go into one request")
    if length > max(settings.max_session, artefact.max_length):
        raise Refusal(400, f"items: {length} clicks, at most {settings.max_session} are allowed")
    mask = tensors.get("mask", items != 0)
    exclude = tensors.get("exclude_seen", np.full((rows, 1), artefact.exclude_seen))
    intents = tensors.get("intents")
    if mask.shape != items.shape or len(exclude) != rows or (intents is not None and len(intents) != rows):
        raise Refusal(400, "mask, exclude_seen, intents: as many sessions as items, and mask of its shape")
    if not mask.all() or items.min() < 1 or items.max() > artefact.num_items:
        _check_clicks(items, mask, None if skip else artefact.num_items)
        items = np.where(mask, items, 0)
    limits = {"size": artefact.num_items, "longest": artefact.max_length}
    sessions = usable(items, mask, exclude, **limits)
    if artefact.takes_intents:
        if intents is None:
            intents = np.zeros((rows, len(artefact.perspectives), artefact.text_dim), np.float32)
        if not np.isfinite(intents).all():
            raise Refusal(400, "intents: not all values are finite; send zeros where no intent is known")
    return PendingRequest(sessions.items, sessions.mask, exclude, intents), sessions


def _check_clicks(items: Array, mask: Array, size: int | None) -> None:
    """Raise `Refusal` for sessions that are none; with a size, for items that are unknown, too."""
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
    wrong = mask & ((items < 1) | (items > size if size is not None else False))
    if wrong.any():
        row = int(wrong.any(1).argmax())
        known = "from 1 on" if size is None else f"in 1..{size}"
        raise Refusal(400, f"items: session {row}: {items[wrong][0]} is not a catalogue id {known}")


def _outputs(request: dict[str, Any], known: Collection[str]) -> dict[str, bool]:
    """The requested outputs, ids and scores if none is named, and which are in binary."""
    default = _flag(parameters_of(request), "binary_data_output", False)
    given = request.get("outputs")
    if given is None or given == []:
        return dict.fromkeys(OUTPUTS, default)
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise Refusal(400, "outputs: expected a list of objects with a name")
    found: dict[str, bool] = {}
    for one in given:
        name = one.get("name")
        if not isinstance(name, str) or name not in known:
            raise Refusal(400, f"outputs: {short(name)} is not one of {', '.join(known)}")
        parameters = parameters_of(one)
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
