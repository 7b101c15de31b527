"""The protocol's messages, read from its compiled description instead of generated code.

They live in a pool of their own, since other packages, such as Triton's client, register messages of the
same names; and no generated code asks for a certain version of protobuf.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
COMPILED = "open_inference.binpb"


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    found = descriptor_pb2.FileDescriptorSet()
    found.ParseFromString((files("llm4sbr.serving.server.rpc") / COMPILED).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    return pool


def message(name: str) -> Any:
    """The class of a message, such as `ModelInferRequest`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def methods() -> dict[str, Any]:
    """Name of each of the service's methods -> class of its requests."""
    service = _pool().FindServiceByName(SERVICE)
    return {one.name: message_factory.GetMessageClass(one.input_type) for one in service.methods}
