"""Finds the files that an ONNX graph takes weights from, without the package `onnx`.

A tensor may be kept in another file, whose name is in the graph. The runtime opens whatever is named there,
so names are read first: from the graph's Protocol Buffers, of which only the fields on the way to tensors are
looked at (onnx.proto3).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from llm4sbr import store
from llm4sbr.errors import StoreError

INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
"""Message -> number of a field -> the message in it. An entry is a key (1) and its value (2)."""

LOCATION = b"location"
DEEPEST = 64
"""Graphs inside graphs; no graph of ours has one."""


def external_files(path: Path) -> set[str]:
    """Names of the files that the ONNX graph in `path` takes weights from.

    Raises:
        StoreError: the file cannot be read, or is no ONNX graph.
    """
    with store.open_for_reading(path) as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
                return set(_names(data, "model", 0))
        except (IndexError, RecursionError, ValueError) as error:
            raise StoreError(f"{path}: not a whole ONNX graph ({error}); export again") from None


def _names(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise ValueError("graphs inside graphs without end")
    known, found = INSIDE[message], {}
    for number, part in _fields(data):
        if message == "entry":
            found[number] = bytes(part)
        elif number in known:
            yield from _names(part, known[number], depth + 1)
        part.release()
    if found.get(1) == LOCATION:
        yield found.get(2, b"").decode(errors="replace")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of every field that has bytes; numbers are passed over."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        kind = tag & 7
        if kind == 0:
            _, at = _number(data, at)
        elif kind == 2:
            size, at = _number(data, at)
            if size > len(data) - at:
                raise ValueError("cut off")
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
    if at > len(data):
        raise ValueError("cut off")


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, and where it ends."""
    found = 0
    for place in range(10):
        byte = data[at + place]
        found |= (byte & 127) << 7 * place
        if byte < 128:
            return found, at + place + 1
    raise ValueError("a number without end")
