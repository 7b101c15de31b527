"""Saves the state of training after every epoch, in one file that is replaced atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from llm4sbr import store
from llm4sbr.errors import StoreError

NAME = "checkpoint.safetensors"
LOG = "log.jsonl"
"""In the same folder: one line per epoch."""


class Checkpoint:
    """Weights, optimizer state, best weights and history of a model in training.

    Attributes:
        epoch: number of finished epochs.
        best_epoch: epoch of the weights in `best`, counted from 1; 0 before the first.
        best_value: its value of the validation metric.
        worse: epochs that were no better than all before.
        best: weights by name, none before the first epoch.
        writes: whether this process writes the file.
        history: one entry per epoch.
    """

    def __init__(
        self, folder: Path, model: nn.Module, optimizers: Mapping[str, Optimizer], *, writes: bool = True
    ) -> None:
        self.path = folder / NAME
        self.model, self.optimizers, self.writes = model, optimizers, writes
        self.epoch, self.best_epoch, self.best_value = 0, 0, -1.0
        self.worse = 0
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []

    @classmethod
    def open(
        cls, folder: Path, model: nn.Module, optimizers: Mapping[str, Optimizer], *, writes: bool = True
    ) -> Checkpoint:
        """Load the checkpoint in `folder` into model and optimizers (by name), or start a new one.

        With `writes=False` it tracks epochs and the best weights, while another process writes.
        """
        state = cls(folder, model, optimizers, writes=writes)
        for left in folder.glob(".*.tmp") if writes else ():  # left by an interrupted write
            left.unlink(missing_ok=True)
        if state.path.exists():
            state._read()
        return state

    def advance(self, entry: dict[str, Any], *, better: bool, value: float) -> None:
        """Record a finished epoch, and write the checkpoint and the log."""
        self.epoch += 1
        self.history.append(entry)
        if better:
            self.best_epoch, self.best_value = self.epoch, value
            for name, tensor in self.model.state_dict().items():  # of every process: it may go on from it
                self.best[name] = (
                    tensor.detach().clone() if name not in self.best else self.best[name].copy_(tensor)
                )
        else:
            self.worse += 1
        if self.writes:
            self._write()

    def _write(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for kind, optimizer in self.optimizers.items():
            for number, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}.{number}.{name}": tensor for name, tensor in moments.items()}
        names = ("epoch", "best_epoch", "best_value", "worse", "history")
        facts = {name: getattr(self, name) for name in names}
        state = json.dumps(facts)
        store.write_tensors(self.path, tensors, {"state": state, "sha256": _digest(tensors, state)})
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        store.write_text(self.path.with_name(LOG), lines)

    def remove(self) -> None:
        """Delete the checkpoint: training has ended."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        tensors = store.read_tensors(self.path)
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata()
            facts = json.loads(metadata["state"])
            digest = _digest(tensors, metadata["state"])
            if metadata.get("sha256", digest) != digest:
                raise ValueError("it changed since it was written, its sha256 differs")
            self.epoch, self.best_epoch = facts["epoch"], facts["best_epoch"]
            self.best_value, self.worse = facts["best_value"], facts["worse"]
            self.history = facts["history"]
            self.model.load_state_dict(_part(tensors, "model."))
            self.best = _copy(_part(tensors, "best."))
            for kind, optimizer in self.optimizers.items():
                moments: dict[int, dict[str, Tensor]] = {}
                for name, tensor in _part(tensors, f"{kind}.").items():
                    number, _, moment = name.partition(".")
                    moments.setdefault(int(number), {})[moment] = tensor.clone()
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": moments, "param_groups": groups})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(f"{self.path}: not a checkpoint of this model ({reason}); delete it") from None


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    """sha256 (hex) of names, values and state."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
