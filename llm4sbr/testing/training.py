"""Helpers for tests of training: small settings, running the stage alone, and reading its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm4sbr.config import Config, build
from llm4sbr.progress import Progress
from llm4sbr.stages.train import train
from llm4sbr.store import read_tensors


def settings(
    llm: str = "embedded", controls: Sequence[str] = ("item-text", "shuffled", "none"), **changes: Any
) -> Config:
    """Settings for a `toy_run`: hidden size 8, three epochs, one process; `changes` are those of `train`."""
    base = {"dim": 8, "epochs": 3, "learning_rate": 0.01, "workers": 1, "device": "cpu", "batch_size": 32}
    return build({"infer": {"llm": llm, "controls": list(controls)}, "train": base | changes})


def trained(run: Path, config: Config, name: str = "train") -> Path:
    """Run the stage `train` and return its folder, `name` in the run."""
    out = run / name
    out.mkdir(exist_ok=True)
    train(run, out, config, Progress(quiet=True))
    return out


def record(out: Path, variant: str = "plain", seed: int = 0) -> Any:
    """The content of a model's `model.json`."""
    return json.loads((out / variant / f"seed-{seed}" / "model.json").read_text())


def log(out: Path, variant: str = "plain", seed: int = 0) -> list[dict[str, Any]]:
    """The lines of a model's `log.jsonl`, one per epoch."""
    text = (out / variant / f"seed-{seed}" / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def weights(out: Path, variant: str = "plain", seed: int = 0) -> dict[str, Tensor]:
    """The weights of a model."""
    return read_tensors(out / variant / f"seed-{seed}" / "model.safetensors")


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether two models have exactly the same weights."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
