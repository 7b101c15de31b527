"""Engines that compute recommendations, with the same sessions and weights: PyTorch, ONNX Runtime, TensorRT.

There is also a lower bound, called the floor: the time to read the item table once, which every exact engine
needs. It is measured with the fastest of several kernels, on huge pages (numpy requests them). PyTorch is
imported only by engines that use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr.serving.artefact import Artefact

if TYPE_CHECKING:
    import torch

K = 20
WIDTH, TEXT = 100, 384
"""D and E, as in `synthetic.py`, which needs PyTorch."""


class SessionBatch(NamedTuple):
    """Sessions of one request."""

    items: NDArray[np.int64]
    """(B, T), 0 at the end where a session is shorter."""
    intents: NDArray[np.float32] | None = None
    """(B, 2, E), only in the variant `intents`."""


Ids = NDArray[np.int64]
Answer = Callable[[SessionBatch], Ids]
"""Item ids (B, K), on the host."""


class EngineSpec(NamedTuple):
    """An engine that can be measured."""

    title: str
    precision: str | None = None
    """Precision of the artefact that it loads; None if it needs none."""
    gpu: bool = False
    packages: str = ""
    """Packages to install for it."""
    copies: int = 3
    """Maximum memory, in multiples of the float32 item table; a generous estimate."""


FLOOR = "floor"
ENGINES = {
    FLOOR: EngineSpec("item table read once", copies=1),
    "eager": EngineSpec("PyTorch", copies=2),
    "compile": EngineSpec("torch.compile", copies=2),
    "onnx": EngineSpec("ONNX Runtime fp32", "fp32"),
    "onnx-int8": EngineSpec("ONNX Runtime int8", "int8"),
    "eager-cuda": EngineSpec("PyTorch, CUDA", gpu=True),
    "compile-cuda": EngineSpec("torch.compile, CUDA", gpu=True),
    "onnx-cuda": EngineSpec("ONNX Runtime fp32, CUDA", "fp32", gpu=True, packages="llm4sbr[onnx-gpu]"),
    "tensorrt-fp32": EngineSpec("TensorRT fp32", gpu=True, packages="llm4sbr[onnx,tensorrt]"),
    "tensorrt-fp16": EngineSpec("TensorRT fp16", gpu=True, packages="llm4sbr[onnx,tensorrt]"),
}


def batches(
    items: int, size: int, lengths: Callable[[], int], *, variant: str, count: int
) -> list[SessionBatch]:
    """Batches with random item ids; the first has the shortest sessions, the second the longest."""
    random = np.random.default_rng(size)
    drawn = [[lengths() for _ in range(size)] for _ in range(count)]
    made = []
    for wanted in [[1] * size, [max(map(max, drawn))] * size, *drawn]:
        ids = random.integers(1, items + 1, (size, max(wanted)))
        ids *= np.arange(max(wanted)) < np.array(wanted)[:, None]
        intents = random.standard_normal((size, 2, TEXT), dtype=np.float32) if variant == "intents" else None
        made.append(SessionBatch(ids, intents))
    return made


def open_engine(
    name: str, folder: Path, *, items: int, variant: str, threads: int, backbone: str = "sr-gnn"
) -> Answer:
    """Open an engine.

    Args:
        name: one of `ENGINES`.
        folder: the artefact of its precision and of the variant.
        items: N.
        variant: `plain` or `intents`.
        threads: on the CPU.
        backbone: an installed name.
    """
    engine = ENGINES[name]
    if name == FLOOR:
        return floor(items, threads)
    if engine.precision:
        return _onnx(folder, threads, "cuda" if engine.gpu else "cpu")
    if name.startswith("tensorrt"):
        return _tensorrt(name.removeprefix("tensorrt-"), folder, items, variant, backbone)
    device, compiled = "cuda" if engine.gpu else "cpu", name.startswith("compile")
    return _torch(items, variant, backbone, threads=threads, device=device, compiled=compiled)


def floor(items: int, threads: int) -> Answer:
    """The floor: reads a table of float32 (N, D) with the fastest kernel; the ids it returns mean nothing."""
    import torch

    torch.set_num_threads(threads)
    memory = np.empty((items, WIDTH), np.float32)
    memory[:] = np.arange(items, dtype=np.float32)[:, None]
    table, query = torch.from_numpy(memory), torch.ones(WIDTH)
    whole = table.view(torch.int32)
    kernels: Sequence[Callable[[], Any]] = (table.sum, table.amax, whole.amax, lambda: table @ query)
    best = min(kernels, key=_quickest)

    def answer(batch: SessionBatch) -> Ids:
        best()
        return np.zeros((len(batch.items), 0), np.int64)

    return answer


def _quickest(kernel: Callable[[], Any], tries: int = 7) -> float:
    found = []
    for _ in range(tries):
        began = time.perf_counter()
        kernel()
        found.append(time.perf_counter() - began)
    return min(found)


def _onnx(folder: Path, threads: int, provider: Any) -> Answer:
    artefact = Artefact.open(folder, threads=threads, provider=provider)
    return lambda batch: artefact.top(batch.items, batch.items > 0, intents=batch.intents)[0]


def _torch(items: int, variant: str, backbone: str, *, threads: int, device: str, compiled: bool) -> Answer:
    import torch
    from synthetic import random_model

    from llm4sbr_export.heads import without

    torch.set_num_threads(threads)
    model = random_model(items, variant, backbone=backbone).to(device)

    def best(clicks: torch.Tensor, intents: torch.Tensor | None) -> torch.Tensor:
        mask = clicks > 0
        scores = model(clicks, mask, intents)
        clicked = torch.where(mask, clicks, clicks[:, :1]) - 1
        return torch.topk(without(scores, clicked, torch.ones_like(mask[:, :1])), K).indices + 1

    run = torch.compile(best, dynamic=True) if compiled else best

    def answer(batch: SessionBatch) -> Ids:
        with torch.inference_mode():
            clicks = torch.from_numpy(batch.items).to(device)
            intents = None if batch.intents is None else torch.from_numpy(batch.intents).to(device)
            ids: Ids = run(clicks, intents).cpu().numpy()
        return ids

    return answer


def _tensorrt(precision: str, folder: Path, items: int, variant: str, backbone: str) -> Answer:
    import torch
    from synthetic import LONGEST, random_model

    from llm4sbr.exporting import ExportSpec
    from llm4sbr_export.tensorrt import TensorRT

    folder.mkdir(parents=True, exist_ok=True)
    path, spec = folder / "model.engine", ExportSpec(K, variant, precision, 64, LONGEST, {})
    TensorRT().export(random_model(items, variant, backbone=backbone), {}, path, spec=spec)
    scorer = TensorRT().load(path)

    def answer(batch: SessionBatch) -> Ids:
        clicks = torch.from_numpy(batch.items)
        inputs = {"items": clicks, "mask": clicks > 0}
        inputs["exclude_seen"] = torch.ones(len(clicks), 1, dtype=torch.bool)
        if batch.intents is not None:
            inputs["intents"] = torch.from_numpy(batch.intents)
        ids: Ids = scorer.score(**inputs)[0].numpy()
        return ids

    return answer
