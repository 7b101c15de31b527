"""Who can compute a list, on the same sessions with the same weights: PyTorch, ONNX Runtime, TensorRT.

And the floor: how long it takes to read the item table once, which no exact answer can do without. The
quickest of several kernels counts, on memory that is as quick as this machine has it (numpy asks for huge
pages). Of PyTorch only those engines know that need it.
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


class Batch(NamedTuple):
    """Sessions that are asked together."""

    items: NDArray[np.int64]
    """(B, T), 0 at the end where a session is shorter."""
    intents: NDArray[np.float32] | None = None
    """(B, 2, E), in the variant `intents`."""


Ids = NDArray[np.int64]
Answer = Callable[[Batch], Ids]
"""Item ids (B, K), on the host."""


class Engine(NamedTuple):
    """What can be measured."""

    title: str
    precision: str | None = None
    """Of the exported artefact that it reads; None: it needs none."""
    gpu: bool = False
    packages: str = ""
    """What has to be installed for it, besides a GPU."""
    copies: int = 3
    """Memory that it takes at most, in item tables of float32: with room to spare."""


FLOOR = "floor"
ENGINES = {
    FLOOR: Engine("item table read once", copies=1),
    "eager": Engine("PyTorch", copies=2),
    "compile": Engine("torch.compile", copies=2),
    "onnx": Engine("ONNX Runtime fp32", "fp32"),
    "onnx-int8": Engine("ONNX Runtime int8", "int8"),
    "eager-cuda": Engine("PyTorch, CUDA", gpu=True),
    "compile-cuda": Engine("torch.compile, CUDA", gpu=True),
    "onnx-cuda": Engine("ONNX Runtime fp32, CUDA", "fp32", gpu=True, packages="llm4sbr[onnx-gpu]"),
    "tensorrt-fp32": Engine("TensorRT fp32", gpu=True, packages="llm4sbr[onnx,tensorrt]"),
    "tensorrt-fp16": Engine("TensorRT fp16", gpu=True, packages="llm4sbr[onnx,tensorrt]"),
}


def batches(items: int, size: int, lengths: Callable[[], int], *, variant: str, count: int) -> list[Batch]:
    """Sessions with ids drawn uniformly; first a batch of the shortest sessions, then one of the longest."""
    random = np.random.default_rng(size)
    drawn = [[lengths() for _ in range(size)] for _ in range(count)]
    made = []
    for wanted in [[1] * size, [max(map(max, drawn))] * size, *drawn]:
        ids = random.integers(1, items + 1, (size, max(wanted)))
        ids *= np.arange(max(wanted)) < np.array(wanted)[:, None]
        intents = random.standard_normal((size, 2, TEXT), dtype=np.float32) if variant == "intents" else None
        made.append(Batch(ids, intents))
    return made


def open_engine(
    name: str, folder: Path, *, items: int, variant: str, threads: int, backbone: str = "sr-gnn"
) -> Answer:
    """An engine that is ready to answer.

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
    """Reads a table of float32 (N, D) with the kernel that is quickest here; its ids mean nothing."""
    import torch

    torch.set_num_threads(threads)
    memory = np.empty((items, WIDTH), np.float32)
    memory[:] = np.arange(items, dtype=np.float32)[:, None]
    table, query = torch.from_numpy(memory), torch.ones(WIDTH)
    whole = table.view(torch.int32)
    kernels: Sequence[Callable[[], Any]] = (table.sum, table.amax, whole.amax, lambda: table @ query)
    best = min(kernels, key=_quickest)

    def answer(batch: Batch) -> Ids:
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

    def answer(batch: Batch) -> Ids:
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

    def answer(batch: Batch) -> Ids:
        clicks = torch.from_numpy(batch.items)
        inputs = {"items": clicks, "mask": clicks > 0}
        inputs["exclude_seen"] = torch.ones(len(clicks), 1, dtype=torch.bool)
        if batch.intents is not None:
            inputs["intents"] = torch.from_numpy(batch.intents)
        ids: Ids = scorer.score(**inputs)[0].numpy()
        return ids

    return answer
