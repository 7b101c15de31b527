"""Weights and moments of an older model, for a catalogue that has changed since.

Items are matched by key. A new item's row starts where its title says: a linear map of the text vectors to
the known rows (ridge regression) is applied to it. Where there are no texts, it is the mean of the rows of
known items that stand near it in sessions, as `baselines.company.near` weighs them, else of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llm4sbr import store
from llm4sbr.baselines import company
from llm4sbr.data.prepared import Prepared
from llm4sbr.errors import StoreError
from llm4sbr.fusion.model import Recipe
from llm4sbr.fusion.on_part import tables_of
from llm4sbr.fusion.saved import WEIGHTS
from llm4sbr.training.row_adam import RowAdam
from llm4sbr.training.start import MOMENTS, Start

SQUARES = "exp_avg_sq"

Guess = Callable[[Tensor], Tensor]
"""Of what known items' rows differ from their mean by, float64 (known, D): the same of the new items."""


class WarmStart(NamedTuple):
    """Where one model starts."""

    weights: dict[str, Tensor]
    """By name, with a row per item of the new catalogue where there is one."""
    moments: dict[str, dict[str, Tensor]]
    """Of the weights, by name: `step`, `exp_avg`, `exp_avg_sq`; none if the old run kept none."""
    new: Tensor
    """bool (M,), the training samples that the old model was not trained on."""
    facts: dict[str, Any]
    """What the model's record says."""

    @classmethod
    def of(
        cls, start: Start, part: str, recipe: Recipe, run: Path, prepared: Prepared, vectors: Tensor | None
    ) -> WarmStart | None:
        """Of the model `part` of a run, None if the old run has no such model.

        Args:
            start: of the run.
            part: `<variant>/seed-<k>`.
            recipe: of the model.
            run: the run.
            prepared: its data.
            vectors: float (N, E), the items' texts, where the model may know them.
        """
        path = start.read(part, WEIGHTS)
        if path is None:
            return None
        old = start.items()["key"].to_list()
        place = {key: number for number, key in enumerate(old)}
        rows = torch.tensor([place.get(key, -1) for key in prepared.catalogue.keys])
        fill = Filling(rows, vectors, prepared)
        tables = tables_of(recipe)
        weights = {
            name: fill(value, tables[name]) if name in tables else value
            for name, value in store.read_tensors(path).items()
        }
        moments: dict[str, dict[str, Tensor]] = {}
        kept = start.read(part, MOMENTS)
        for key, value in (store.read_tensors(kept) if kept else {}).items():
            name, _, moment = key.rpartition(".")
            has_rows = name in tables and value.ndim > 0
            moments.setdefault(name, {})[moment] = fill(value, tables[name], new=False) if has_rows else value
        new = start.unseen(run, prepared)
        facts = {
            "from": start.origin,
            "weights": start.record["models"][part][WEIGHTS],
            "moments": bool(moments),
            "items": int((rows >= 0).sum()),
            "new_items": int((rows < 0).sum()),
            "new_rows_from": "titles" if vectors is not None else "sessions",
            "new_samples": int(new.sum()),
        }
        return cls(weights, moments, new, facts)

    def epoch(self, replay: float, random: torch.Generator) -> Tensor:
        """The samples of an epoch, int64 (S,): all new ones, and `replay` times as many old ones, drawn.

        Where nothing is new, all.
        """
        old = (~self.new).nonzero().squeeze(1)
        if len(old) == len(self.new):
            return old
        count = min(len(old), round(replay * int(self.new.sum())))
        drawn = old[torch.randperm(len(old), generator=random)[:count]]
        return torch.cat([self.new.nonzero().squeeze(1), drawn]).sort().values

    def load(self, model: nn.Module) -> list[str]:
        """Set the weights before the constants are fitted; names of parameters that keep their own.

        Constants that have a row per item are fitted anew. What else the training found or set, such as the
        axes that learned maps refer to, stays.
        """
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        fitting = {
            name: value
            for name, value in self.weights.items()
            if name in own and own[name].shape == value.shape and own[name].dtype == value.dtype
        }
        with torch.no_grad():
            for name, value in fitting.items():
                own[name].copy_(value)
        return sorted(name for name, _ in model.named_parameters() if name not in fitting)

    def resume(self, model: nn.Module, optimizers: Mapping[str, Optimizer]) -> None:
        """Give the optimizers the moments of the weights that they train, as far as these have the shapes."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for optimizer in optimizers.values():
            [group] = optimizer.param_groups
            known = [self._of(names[id(one)], one) for one in group["params"]]
            whole = isinstance(optimizer, RowAdam)
            if all(known) or (any(known) and not whole):
                step = torch.int64 if whole else torch.float32
                state = {
                    number: {**one, "step": one["step"].to(step)} for number, one in enumerate(known) if one
                }
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _of(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        found = self.moments.get(name, {})
        return found if SQUARES in found and found[SQUARES].shape == parameter.shape else {}


class Filling:
    """Moves tables with a row per item to another catalogue.

    Args:
        rows: int64 (N,), the old row of each item, -1 for a new one.
        vectors: float (N, E) or None.
        prepared: the new data.

    Raises:
        StoreError: no item is known.
    """

    def __init__(self, rows: Tensor, vectors: Tensor | None, prepared: Prepared) -> None:
        self.rows, self.known = rows, rows >= 0
        if not bool(self.known.any()):
            raise StoreError("no item of the old run is in this catalogue")
        self.guess: Guess | None = None
        if not bool(self.known.all()):
            self.guess = (
                _by_sessions(prepared, self.known) if vectors is None else _by_text(vectors, self.known)
            )

    def __call__(self, table: Tensor, padding: int, *, new: bool = True) -> Tensor:
        """The table, (padding + N, ...), of one for the old catalogue; `new` false: new rows are zero."""
        head, old = table[:padding], table[padding:]
        found = old.new_zeros(len(self.rows), *old.shape[1:])
        kept = old[self.rows[self.known]]
        found[self.known] = kept
        if new and self.guess is not None:
            flat = kept.double().reshape(len(kept), -1)
            mean = flat.mean(0)
            guessed = mean + self.guess(flat - mean)
            found[~self.known] = guessed.to(old.dtype).view(-1, *old.shape[1:])
        return torch.cat([head, found])


def save_moments(folder: Path, model: nn.Module, optimizers: Mapping[str, Optimizer]) -> None:
    """Write the moments of all weights that are trained, as `<name>.<moment>`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors = {
        f"{names[id(parameter)]}.{moment}": value
        for optimizer in optimizers.values()
        for parameter, state in optimizer.state.items()
        for moment, value in state.items()
        if isinstance(value, Tensor)
    }
    store.write_tensors(folder / MOMENTS, tensors)


def _by_text(vectors: Tensor, known: Tensor) -> Guess:
    """The map of a ridge regression on text vectors."""
    rows = vectors.double()
    centred = rows - rows[known].mean(0)
    x = centred[known]
    products = x.T @ x
    ridge = products.diagonal().mean().clamp(min=1e-12) * torch.eye(len(products), dtype=torch.float64)
    return lambda differences: centred[~known] @ torch.linalg.solve(products + ridge, x.T @ differences)


def _by_sessions(prepared: Prepared, known: Tensor) -> Guess:
    """The mean of known items that stand near a new one in training sessions, 0 where none does."""
    there = known.numpy()
    whole = company.near(prepared.train, prepared.catalogue.size)
    near = whole[np.flatnonzero(~there)][:, np.flatnonzero(there)].astype(np.float64)
    sums = near.sum(1)
    scale = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    return lambda differences: torch.from_numpy((near @ differences.numpy()) * scale[:, None])
