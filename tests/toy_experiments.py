"""Experiments on toy data, small enough for a test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from llm4sbr.config import Settings, merge, nest
from llm4sbr.experiments.grid import Dataset, Request
from llm4sbr.experiments.runner import run_experiment
from llm4sbr.progress import Progress
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log


def toy_data(folder: Path) -> Path:
    """A log and an encoder in `folder`, which is returned."""
    toy_log(folder / "log")
    tiny_bert(folder / "bert")
    return folder


def request_of(base: Path, kind: str, *, settings: Settings | None = None, **axes: Any) -> Request:
    small = {
        "localize.encoder": f"transformers:{base / 'bert'}",
        "train.epochs": 1,
        "train.dim": 8,
        "train.workers": 1,
        "train.baselines": ["popularity"],
        "data.min_item_count": 1,
        "evaluate.k": [5, 20],
    }
    data = [Dataset("toy", "csv", str(base / "log"))]
    return Request(kind, data, settings=merge(nest(small), settings or {}), **axes)


def quiet(folder: Path, request: Request, **options: Any) -> dict[str, Any]:
    return run_experiment(folder, request, progress=Progress(quiet=True), **options)


def inode(path: Path) -> int:
    return path.stat().st_ino


def wait(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
