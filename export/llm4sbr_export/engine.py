"""TensorRT engines: building, checking their key, loading and running.

An engine is a cache. It is valid for one ONNX file, one version of TensorRT, one kind of GPU, one precision
and one profile. `engine.json` in the same folder records these, and an engine whose key does not match is not
loaded. Written for the documented API of TensorRT 11 (10.8 and later also work): strongly typed networks,
tensors addressed by name, `execute_async_v3`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.errors import DeviceError, ExportError, ModelUnavailableError, StoreError
from llm4sbr.system import installation
from llm4sbr_export.checks import Shapes, Words, built, parse

KEY = "engine.json"
ONNX = "model.onnx"

WORKSPACE = 4 << 30
"""GPU memory in bytes that kernels may use while they are tuned."""


class Key(NamedTuple):
    """The key of an engine: what it was built from, and for."""

    onnx: str
    """sha256 of the ONNX file and its external weights."""
    tensorrt: str
    gpu: str
    """Name and compute capability, such as `NVIDIA A100-SXM4-80GB, SM80`."""
    precision: str
    profile: tuple[int, ...]
    """`Shapes`, as numbers."""

    @classmethod
    def here(cls, onnx: Path, *, precision: str, shapes: Shapes) -> Key:
        """The key for this machine; raises `DeviceError` without a GPU."""
        parts = [store.file_sha256(path) for path in sorted(onnx.parent.glob(f"{onnx.name}*"))]
        device = gpu()  # first: without a GPU, installing TensorRT would not help
        return cls(store.fingerprint(parts), tensorrt().__version__, device, precision, tuple(shapes))


def tensorrt() -> Any:
    """The module; raises `ModelUnavailableError` if it is not installed."""
    try:
        import tensorrt as module
    except ImportError as error:  # also if its libraries are missing
        raise ModelUnavailableError(f"tensorrt: {error}: {installation.command('tensorrt')}") from None
    return module


def gpu() -> str:
    """Name and compute capability of the current GPU; raises `DeviceError` if torch can use none."""
    if not torch.cuda.is_available():
        raise DeviceError("no NVIDIA GPU that this torch can use")
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, SM{major}{minor}"


def build(onnx: Path, path: Path, *, key: Key, shapes: Shapes) -> None:
    """Build the engine of an ONNX file for this machine's GPU, and write it with its key.

    Kernel timings are kept in the cache folder, so that the next build is faster.

    Raises:
        ExportError: TensorRT cannot parse or build it; the message quotes TensorRT.
    """
    trt = tensorrt()
    words = Words(trt)
    builder = trt.Builder(words.logger)
    network, config = parse(trt, builder, words, onnx, shapes)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    kept = store.cache_dir() / "tensorrt" / f"{trt.__version__}-{store.fingerprint(key.gpu)[:12]}.timing"
    timings = config.create_timing_cache(kept.read_bytes() if kept.exists() else b"")
    config.set_timing_cache(timings, ignore_mismatch=False)
    engine = built(builder, network, config, words, onnx)
    with store.writing(kept) as temporary:
        temporary.write_bytes(bytes(timings.serialize()))
    with store.writing(path) as temporary:
        temporary.write_bytes(engine)
    store.write_json(path.with_name(KEY), key._asdict() | {"engine": store.file_sha256(path)})


def mismatch(path: Path, key: Key) -> str:
    """Why the engine at `path` does not have this key, in one line; "" if it has."""
    record = path.with_name(KEY)
    if not record.exists() or not path.exists():
        return "there is no engine with a key"
    found = store.read_json(record)
    if not isinstance(found, Mapping):
        return f"{KEY} is no record"
    for name, value in key._asdict().items():
        expected = list(value) if isinstance(value, tuple) else value
        if found.get(name) != expected:
            return f"{name} is {found.get(name)!r}, here it is {expected!r}"
    return "" if found.get("engine") == store.file_sha256(path) else "its file has changed"


def made_for(path: Path) -> tuple[str, Shapes]:
    """Precision and profile of the engine at `path`; raises `StoreError` if its key cannot be read."""
    record = store.read_json(path.with_name(KEY))
    try:
        return str(record["precision"]), Shapes(*map(int, record["profile"]))
    except (KeyError, TypeError, ValueError):
        raise StoreError(f"{path.with_name(KEY)}: not an engine's key; export again") from None


class EngineScorer:
    """An engine on the GPU, with its own stream and buffers; not thread-safe.

    Buffers are allocated once, for the profile's maximum shape, pinned on the host. A request is then: fill,
    copy to the GPU, run, copy back, wait, all on one stream.

    Args:
        path: the engine; its key must have been checked.
        shapes: its profile.

    Raises:
        StoreError: TensorRT cannot load the engine.
    """

    provider = "tensorrt"

    def __init__(self, path: Path, *, shapes: Shapes) -> None:
        trt = tensorrt()
        self.shapes = shapes
        self._words = Words(trt)
        self._runtime = trt.Runtime(self._words.logger)
        self.engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise StoreError(f"{path}: TensorRT cannot load the engine: {self._words}")
        self.context = self.engine.create_execution_context()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._inputs: dict[str, _Buffer] = {}
        self._outputs: dict[str, _Buffer] = {}
        for number in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(number)
            given = self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            rest = tuple(self.engine.get_tensor_shape(name))[1:]
            largest = shapes.of(name, rest)[-1]
            buffer = _Buffer(largest, _dtype(trt, self.engine.get_tensor_dtype(name)))
            (self._inputs if given else self._outputs)[name] = buffer
            self.context.set_tensor_address(name, buffer.device.data_ptr())

    def score(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Item ids int64 (B, K) and scores float32 (B, K) for the graph's inputs by name.

        Raises:
            ExportError: a shape is outside the profile, or TensorRT failed.
        """
        batch = len(inputs["items"])
        with torch.cuda.stream(self.stream):
            for name, buffer in self._inputs.items():
                value = inputs[name]
                if not self.context.set_input_shape(name, tuple(value.shape)):
                    raise ExportError(f"{name}: shape {tuple(value.shape)} is outside of {self.shapes}")
                buffer.put(value)
            if not self.context.execute_async_v3(self.stream.cuda_stream):
                raise ExportError(f"TensorRT could not run the engine: {self._words}")
            found = {name: buffer.get(batch) for name, buffer in self._outputs.items()}
        self.stream.synchronize()
        return found["item_ids"].clone(), found["scores"].clone()


class _Buffer:
    """One flat buffer on host and device, of the maximum size."""

    def __init__(self, largest: tuple[int, ...], dtype: torch.dtype) -> None:
        self.rest = largest[1:]
        size = math.prod(largest)
        self.host = torch.empty(size, dtype=dtype, pin_memory=True)
        self.device = torch.empty(size, dtype=dtype, device="cuda")

    def put(self, value: Tensor) -> None:
        """Copy a tensor to the device, on the current stream."""
        count = value.numel()
        self.host[:count].copy_(value.reshape(-1))
        self.device[:count].copy_(self.host[:count], non_blocking=True)

    def get(self, batch: int) -> Tensor:
        """The first `batch` rows on the host; valid once the current stream has finished the copy."""
        count = batch * math.prod(self.rest)
        self.host[:count].copy_(self.device[:count], non_blocking=True)
        return self.host[:count].view(batch, *self.rest)


def _dtype(trt: Any, dtype: Any) -> torch.dtype:
    known = {trt.int64: torch.int64, trt.int32: torch.int32, trt.float32: torch.float32, trt.bool: torch.bool}
    found: torch.dtype = known[dtype]
    return found
