"""Trains one model: batches, epochs, early stopping, and a checkpoint from which a killed run goes on.

What makes it fast: prefixes are gathered out of one flat tensor, batches hold samples of about one length,
intents are looked up once and gathered from memory-mapped shards, the session graph is a few tensor
operations, matrix products go where the CPU is fastest, and nothing runs once per sample in Python.

What makes it repeatable: every epoch draws its random numbers from its own seed, so that the checkpoint
needs weights and optimizer state only, and a resumed run ends with the very weights of an undisturbed one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from llm4sbr import memory, metrics, store
from llm4sbr.checkpoint import Checkpoint
from llm4sbr.config import TrainConfig
from llm4sbr.data.batches import Batch, batches
from llm4sbr.errors import TrainingError
from llm4sbr.fusion.losses import Losses, joint_loss
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.onednn import faster_products
from llm4sbr.parallel import Report
from llm4sbr.protocols import CatalogueFuser, Samples, Sessions
from llm4sbr.ranking import SampleIntents, pick_device, rank_all, scorer

SELECT_BY = "MRR@20"
SHOWN = (5, 10, 20)
"""K of the validation metrics that are logged."""
CHECK_EVERY = 50
"""Batches between two looks at the losses, so that a GPU need not wait at every step."""
LOG = "log.jsonl"


class Material(NamedTuple):
    """What one model is trained on."""

    sessions: Sessions
    """What all samples refer to."""
    fit: Sessions
    """The training sessions, for the backbone's `fit`."""
    train: Samples
    select: Samples
    """Samples on which the best epoch is chosen; none: the last epoch is taken."""
    selected_on: str
    """`valid`, `test` (only as the paper does it) or `none`."""
    catalogue: str
    """Hash of the catalogue."""
    train_intents: SampleIntents | None = None
    select_intents: SampleIntents | None = None
    titles: Tensor | None = None
    """float32 (N, E), the catalogue's text vectors, for a fuser that needs them."""


def train_model(
    folder: Path,
    recipe: Recipe,
    material: Material,
    config: TrainConfig,
    *,
    seed: int,
    report: Report,
    facts: dict[str, Any],
) -> str:
    """Train one model into `folder`, going on from its checkpoint if there is one.

    Args:
        folder: gets `model.safetensors`, `model.json` and `log.jsonl`.
        recipe: what to build.
        material: what to train on.
        config: how to train.
        seed: of the weights, the order of the samples, and dropout.
        report: told how many samples were trained on, and how it stands.
        facts: further content of `model.json`.

    Returns:
        How it went, in a few words.

    Raises:
        TrainingError: a loss is not a number; the last good model is in `folder`.
    """
    memory.reset_peak()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        trainer = _Trainer(folder, recipe, material, config, seed)
        try:
            for note in trainer.epochs(report):
                report(0, note)
        except TrainingError as error:
            raise trainer.stopped(error, facts) from None
        return trainer.finish(facts)


class _Trainer:
    """One model in training."""

    def __init__(
        self, folder: Path, recipe: Recipe, material: Material, config: TrainConfig, seed: int
    ) -> None:
        self.folder, self.recipe, self.material, self.config, self.seed = (
            folder,
            recipe,
            material,
            config,
            seed,
        )
        self.device = pick_device(config.device)
        torch.manual_seed(seed)
        self.model = build(recipe)
        self.model.backbone.fit(material.fit)
        if material.titles is not None:
            cast(CatalogueFuser, self.model.fuser).fit(material.titles)
        self.model.to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), config.learning_rate, weight_decay=config.l2, fused=True
        )
        self.products = faster_products()
        self.checkpoint = Checkpoint.open(folder, self.model, self.optimizer)

    def epochs(self, report: Report) -> Iterator[str]:
        """Train until the last epoch or until patience ends; yields how it stands after each epoch."""
        state = self.checkpoint
        while state.epoch < self.config.epochs and state.epoch - state.best_epoch < self._patience():
            started = time.perf_counter()
            losses = self._epoch(state.epoch, report)
            trained = time.perf_counter() - started
            valid = self._validate()
            better = not valid or valid[SELECT_BY] > state.best_value
            entry: dict[str, Any] = {
                "epoch": state.epoch + 1,
                "learning_rate": self._rate(state.epoch),
            } | losses
            entry |= {"valid": valid, "seconds": round(trained, 3)}
            state.advance(entry, better=better, value=valid.get(SELECT_BY, 0.0))
            store.write_text(self.folder / LOG, "".join(json.dumps(line) + "\n" for line in state.history))
            yield _standing(entry)

    def finish(self, facts: dict[str, Any]) -> str:
        """Save the best weights and drop the checkpoint."""
        self._save(facts)
        self.checkpoint.remove()
        state = self.checkpoint
        seconds = sum(line["seconds"] for line in state.history)
        where = {"valid": "", "test": " ON THE TEST SET"}.get(self.material.selected_on)
        chosen = "" if where is None else f", {SELECT_BY} {100 * state.best_value:.2f}%{where}"
        return f"{state.epoch} epochs in {seconds:.1f}s, best {state.best_epoch}{chosen}"

    def stopped(self, error: TrainingError, facts: dict[str, Any]) -> TrainingError:
        """Keep the last good model, if any epoch was good, and say so."""
        if not self.checkpoint.epoch:
            return TrainingError(f"{error}; no epoch was finished")
        self._save(facts | {"stopped": str(error)})
        return TrainingError(f"{error}; the model of epoch {self.checkpoint.best_epoch} is in {self.folder}")

    def _epoch(self, epoch: int, report: Report) -> dict[str, float]:
        seed = store.fingerprint([self.seed, epoch])
        torch.manual_seed(int(seed[:15], 16))
        random = torch.Generator().manual_seed(int(seed[15:30], 16))
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(epoch)
        self.model.train()
        losses: list[Tensor] = []
        material, size = self.material, self.config.batch_size
        for batch in batches(material.sessions, material.train, batch_size=size, generator=random):
            with self.products:
                losses.append(torch.stack(self._step(batch, random)).detach())
            if len(losses) % CHECK_EVERY == 0:
                self._check(losses[-CHECK_EVERY:], epoch, len(losses) - CHECK_EVERY)
            report(len(batch.index), "")
        self._check(losses[-CHECK_EVERY:], epoch, max(0, len(losses) - CHECK_EVERY))
        means = torch.stack(losses).mean(0).tolist()
        return dict(zip(("loss", *Losses._fields[1:]), means, strict=True))

    def _step(self, batch: Batch, random: torch.Generator) -> Losses:
        intents = self._intents(batch, random)
        output = self.model.represent(batch.items.to(self.device), batch.mask.to(self.device), intents)
        losses = joint_loss(output, batch.target.to(self.device), tau=self.config.tau)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return losses

    def _intents(self, batch: Batch, random: torch.Generator) -> Tensor | None:
        known = self.material.train_intents
        if known is None:
            return None
        chance = self.config.intent_dropout
        drop = torch.rand(len(batch.index), generator=random) < chance if chance else None
        return known.gather(batch.index, drop=drop).to(self.device)

    def _validate(self) -> dict[str, float]:
        material = self.material
        if not len(material.select.key):
            return {}
        self.model.eval()
        found = rank_all(
            scorer(self.model, material.select_intents, self.device),
            material.sessions,
            material.select,
            num_items=self.recipe.num_items,
            batch_size=512,
        )
        return metrics.summary(found, SHOWN)

    def _check(self, losses: list[Tensor], epoch: int, first: int) -> None:
        bad = ~torch.isfinite(torch.stack(losses)).all(1) if losses else torch.zeros(0, dtype=torch.bool)
        if bool(bad.any()):
            batch = first + int(bad.nonzero()[0]) + 1
            raise TrainingError(
                f"the loss of epoch {epoch + 1}, batch {batch} is not a finite number; lower "
                f"train.learning_rate (now {self.config.learning_rate:g})"
            )

    def _rate(self, epoch: int) -> float:
        return self.config.learning_rate * self.config.decay ** (epoch // self.config.decay_every)

    def _patience(self) -> int:
        return self.config.patience if len(self.material.select.key) else self.config.epochs

    def _save(self, facts: dict[str, Any]) -> None:
        state = self.checkpoint
        self.model.load_state_dict(state.best)
        seconds = sum(line["seconds"] for line in state.history)
        best = next((line for line in state.history if line["epoch"] == state.best_epoch), {})
        measured = {
            "seed": self.seed,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "valid": best.get("valid", {}),
            "selected_on": self.material.selected_on,
            "samples": len(self.material.train.key),
            "seconds": round(seconds, 3),
            "samples_per_second": round(len(self.material.train.key) * state.epoch / max(seconds, 1e-9), 1),
            "peak_memory": memory.peak(),
        }
        recipe, catalogue = self.recipe, self.material.catalogue
        save_model(self.folder, self.model, recipe=recipe, catalogue=catalogue, facts=facts | measured)


def _standing(entry: dict[str, Any]) -> str:
    valid = f" {SELECT_BY} {100 * entry['valid'][SELECT_BY]:.2f}%" if entry["valid"] else ""
    return f"epoch {entry['epoch']} loss {entry['loss']:.3f}{valid}"
