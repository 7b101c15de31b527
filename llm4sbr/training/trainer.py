"""Trains one model: batches, epochs, early stopping, and a checkpoint after every epoch.

Speed: prefixes are gathered from one flat tensor, batches have samples of similar length, intents are looked
up once and gathered from memory-mapped shards, the session graph is a few tensor operations, matrix products
use the CPU's fastest library, and no Python code runs per sample.

Reproducibility: every epoch has its own random seed, so that a checkpoint needs only weights and optimizer
state, and a resumed run ends with exactly the weights of an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.config import TrainConfig
from llm4sbr.data.batches import Batch, batches
from llm4sbr.errors import StoreError, TrainingError
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.ranking import rank_all, scorer
from llm4sbr.fusion.losses import Losses
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.on_part import rows_read
from llm4sbr.fusion.saved import save_model
from llm4sbr.protocols import CatalogueFuser, Samples
from llm4sbr.system import memory
from llm4sbr.system.processes import Report
from llm4sbr.training import SELECT_BY
from llm4sbr.training.checkpoint import Checkpoint
from llm4sbr.training.counting import add_counted
from llm4sbr.training.distillation import distil
from llm4sbr.training.material import Material
from llm4sbr.training.negatives import Negatives, chosen_loss
from llm4sbr.training.step import Step
from llm4sbr.training.team import ALONE, BatchShare, Team
from llm4sbr.training.text_init import start_from_text
from llm4sbr.training.warm import save_moments

SHOWN = (5, 10, 20)
"""K of the validation metrics that are logged."""
CHECK_EVERY = 50
"""Batches between two checks of the losses, so that a GPU need not be synchronised at every step."""

AHEAD = 8
"""Batches whose intents are gathered at once, since the overhead per call exceeds the cost of copying."""


class LossError(TrainingError):
    """A loss that is not a number."""


def train_model(
    folder: Path,
    recipe: Recipe,
    material: Material,
    config: TrainConfig,
    *,
    seed: int,
    report: Report,
    facts: dict[str, Any] | None,
    team: Team = ALONE,
) -> str:
    """Train one model into `folder`, resuming from its checkpoint if there is one.

    All processes of a team call this with the same arguments; only rank 0 writes.

    Args:
        folder: where `model.safetensors`, `model.json` and `log.jsonl` are written.
        recipe: the model to build.
        material: the data.
        config: training settings.
        seed: seed of initial weights, the order of samples, and dropout.
        report: called with the number of samples processed and a status text.
        facts: further content of `model.json`; with None no model is saved, only the log of its epochs.
        team: the processes that train this model together.

    Returns:
        A short summary.

    Raises:
        TrainingError: a loss is not a number; the last good model is in `folder`.
        PeerError: another process of the team has ended.
        StoreError: the processes of a team do not see the same folder.
    """
    memory.reset_peak()
    memory.reuse_freed()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        trainer = _Trainer(folder, recipe, material, config, seed, team)
        try:
            for note in trainer.epochs(report):
                report(0, note)
        except LossError as error:
            if team.rank:  # rank 0, which has the same losses, says it
                return str(error)
            raise trainer.stopped(error, facts) from None
        return trainer.finish(facts)


class _Trainer:
    """One model in training."""

    def __init__(
        self, folder: Path, recipe: Recipe, material: Material, config: TrainConfig, seed: int, team: Team
    ) -> None:
        self.folder, self.recipe, self.material = folder, recipe, material
        self.config, self.seed, self.team = config, seed, team
        self.device = team.device(config.device)
        torch.manual_seed(seed)
        self.model = build(recipe)
        if material.start is not None:
            start_from_text(self.model.backbone, material.start, name=recipe.backbone)
        self.cold = material.warm.load(self.model) if material.warm else []
        self.model.backbone.fit(material.fit)
        clicks = torch.bincount(material.fit.items, minlength=recipe.num_items + 1)[1:]
        if material.titles is not None:
            cast(CatalogueFuser, self.model.fuser).fit(material.titles, clicks)
        if self.model.item_item is not None and material.item_item is not None:
            self.model.item_item.fit(material.item_item)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.model.to(self.device)
        loss, self.tables = chosen_loss(config, recipe)
        self.step = Step(
            self.model, config, team=team, device=self.device, repeats=material.repeats, tables=self.tables
        )
        if material.warm:
            material.warm.resume(self.model, self.step.optimizers)
        self.negatives = None
        if self.tables is not None:
            targets = material.sessions.items[material.train.end]
            asked = torch.bincount(targets, minlength=recipe.num_items + 1)[1:]
            self.negatives = Negatives(loss, config.negatives, clicks, asked)
        self.checkpoint = Checkpoint.open(folder, self.model, self.step.optimizers, writes=team.rank == 0)
        if not team.agree(self.checkpoint.epoch):
            raise StoreError(f"{folder}: the processes see different files; the run must be where all see it")

    def epochs(self, report: Report) -> Iterator[str]:
        """Train until the last epoch or early stopping; yields a status text after each epoch."""
        state = self.checkpoint
        while state.epoch < self.config.epochs and state.epoch - state.best_epoch < self._patience():
            started = time.perf_counter()
            losses = self._epoch(state.epoch, report)
            trained = time.perf_counter() - started
            valid = self._validate()
            better = not valid or valid[SELECT_BY] > state.best_value
            entry: dict[str, Any] = {"epoch": state.epoch + 1, "learning_rate": self._rate(state.epoch)}
            entry |= {**losses, "valid": valid, "seconds": round(trained, 3)}
            if not better and self._on_plateau():
                self.model.load_state_dict(state.best)
            state.advance(entry, better=better, value=valid.get(SELECT_BY, 0.0))
            yield _standing(entry)

    def finish(self, facts: dict[str, Any] | None) -> str:
        """Save the best weights and delete the checkpoint."""
        added = ""
        if self.checkpoint.writes:
            if facts is not None and (counted := self._save(facts).get("counted")):
                added = f", with counts {100 * counted['valid'][SELECT_BY]:.2f}%"
                added += "" if counted["better"] else ", so without"
            self.checkpoint.remove()
        state = self.checkpoint
        seconds = sum(line["seconds"] for line in state.history)
        where = {"valid": "", "test": " ON THE TEST SET"}.get(self.material.selected_on)
        chosen = "" if where is None else f", {SELECT_BY} {100 * state.best_value:.2f}%{where}"
        return f"{state.epoch} epochs in {seconds:.1f}s, best {state.best_epoch}{chosen}{added}"

    def stopped(self, error: LossError, facts: dict[str, Any] | None) -> TrainingError:
        """Keep the model of the best epoch so far, if there is one, and return the error to raise."""
        if not self.checkpoint.epoch:
            return TrainingError(f"{error}; no epoch was finished")
        if facts is None:
            return TrainingError(str(error))
        self._save(facts | {"stopped": str(error)})
        return TrainingError(f"{error}; the model of epoch {self.checkpoint.best_epoch} is in {self.folder}")

    def _epoch(self, epoch: int, report: Report) -> dict[str, float]:
        seed = store.fingerprint([self.seed, epoch])
        torch.manual_seed(int(seed[:15], 16) + self.team.rank)
        random = torch.Generator().manual_seed(int(seed[15:30], 16))  # the same in all processes
        for optimizer in self.step.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self._rate(epoch)
        self.model.train()
        waiting: list[Tensor] = []
        checked: list[Tensor] = []
        for number, (part, intents) in enumerate(self._parts(random), 1):
            waiting.append(self.step(part, intents, self._fold(part)))
            report(part.of, "")
            if len(waiting) == CHECK_EVERY:
                checked.append(self._checked(waiting, epoch, number))
                waiting.clear()
        if waiting:
            checked.append(self._checked(waiting, epoch, number))
        self.step.end_epoch()
        return dict(zip(("loss", *Losses._fields[1:]), torch.cat(checked).mean(0).tolist(), strict=True))

    def _parts(self, random: torch.Generator) -> Iterator[tuple[BatchShare, Tensor | None]]:
        """This process's share of every batch of an epoch, with intents if the model uses them."""
        material, size = self.material, self.config.batch_size
        chosen = material.warm and material.warm.epoch(self.config.replay, random)
        found = batches(material.sessions, material.train, chosen, batch_size=size, generator=random)
        parts, known = (self._part(batch, random) for batch in found), material.train_intents
        if known is None:
            yield from ((part, None) for part in parts)
            return
        while ahead := list(islice(parts, AHEAD)):
            drop = torch.cat([self._withheld(part, random) for part in ahead])
            intents = known.gather(torch.cat([part.batch.index for part in ahead]), drop=drop)
            own = [len(part.batch.index) for part in ahead]
            yield from zip(ahead, torch.split(intents, own), strict=True)

    def _part(self, batch: Batch, random: torch.Generator) -> BatchShare:
        if self.negatives is None or self.tables is None:
            return self.team.part(batch)
        read = rows_read(self.model, self.tables, batch.items[batch.mask])
        return self.team.part(batch, self.negatives.draw(batch, read, random))

    def _fold(self, part: BatchShare) -> Tensor | None:
        known = self.material.item_item
        return None if known is None else known.fold[part.batch.index]

    def _withheld(self, part: BatchShare, random: torch.Generator) -> Tensor:
        """Samples of a share whose intents are dropped, bool (B,)."""
        chance, own = self.config.intent_dropout, len(part.batch.index)
        if not chance:
            return torch.zeros(own, dtype=torch.bool)
        # Drawn for the whole batch, so that the result does not depend on the number of processes.
        return (torch.rand(part.of, generator=random) < chance)[part.start : part.start + own]

    def _checked(self, losses: list[Tensor], epoch: int, last: int) -> Tensor:
        """The losses of the latest batches, float (batches, 4), summed over all processes."""
        whole = self.team.sum(torch.stack(losses))
        bad = ~torch.isfinite(whole).all(1)
        if bool(bad.any()):
            batch = last - len(losses) + int(bad.nonzero()[0]) + 1
            raise LossError(
                f"the loss of epoch {epoch + 1}, batch {batch} is not a finite number; lower "
                f"train.learning_rate (now {self.config.learning_rate:g})"
            )
        return whole

    def _validate(self) -> dict[str, float]:
        material, team = self.material, self.team
        if not len(material.select.key):
            return {}
        self.model.eval()
        own = torch.arange(team.rank, len(material.select.key), team.size)
        intents = material.select_intents
        found = torch.zeros(len(material.select.key), dtype=torch.int64)
        found[own] = rank_all(
            scorer(self.model, intents and intents._replace(rows=intents.rows[own]), self.device),
            material.sessions,
            Samples(*(tensor[own] for tensor in material.select)),
            num_items=self.recipe.num_items,
            batch_size=512,
            repeats=material.repeats,
        )
        return metrics.summary(team.sum(found), SHOWN)

    def _rate(self, epoch: int) -> float:
        config = self.config
        if self.material.rates:
            return self.material.rates[epoch]
        passed = self.checkpoint.worse if self._on_plateau() else epoch // config.decay_every
        return config.learning_rate * config.decay**passed

    def _on_plateau(self) -> bool:
        """Whether the rate falls where validation no longer rises, and training goes on from the best."""
        return self.config.schedule == "plateau" and len(self.material.select.key) > 0

    def _device_peak(self) -> int | None:
        """Peak GPU memory of tensors in bytes."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def _patience(self) -> int:
        return self.config.patience if len(self.material.select.key) else self.config.epochs

    def _rates_to_best(self) -> list[float]:
        """The learning rates of the epochs that made the best weights: with them a refit does the same."""
        best, found = -1.0, []
        for line in self.checkpoint.history[: self.checkpoint.best_epoch]:
            value = line["valid"].get(SELECT_BY, 0.0)
            if value > best or not self._on_plateau():
                best = value
                found.append(line["learning_rate"])
        return found

    def _still_rising(self) -> bool:
        """Whether the limit of epochs ended the training, and not a validation metric that stopped rising."""
        state, limit = self.checkpoint, self.config.epochs
        return bool(len(self.material.select.key)) and state.best_epoch == state.epoch == limit

    def _save(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the model of the best epoch, with what is added after training; what was measured."""
        state = self.checkpoint
        self.model.load_state_dict(state.best)
        seconds = sum(line["seconds"] for line in state.history)
        best = next((line for line in state.history if line["epoch"] == state.best_epoch), {})
        samples = len(self.material.train.key)
        if self.material.warm:
            samples = len(self.material.warm.epoch(self.config.replay, torch.Generator()))
        measured = {
            "seed": self.seed,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "rates": self._rates_to_best(),
            "valid": best.get("valid", {}),
            "selected_on": self.material.selected_on,
            "still_rising": self._still_rising(),
            "repeats": self.material.repeats,
            "loss": str(self.negatives or "full"),
            "samples": samples,
            "seconds": round(seconds, 3),
            "samples_per_second": round(samples * state.epoch / max(seconds, 1e-9), 1),
            "peak_memory": memory.peak(),
            "device_memory": self._device_peak(),
            "processes": self.team.size,
        }
        if self.material.warm:
            measured["warm"] = self.material.warm.facts | {"own": self.cold}
        if "chosen" not in facts:  # models start from tested ones only
            save_moments(self.folder, self.model, self.step.optimizers)
        material, catalogue = self.material, self.material.catalogue
        if material.tables:
            weights = facts.get("chosen", {}).get("counted")
            measured |= add_counted(self.model.eval(), material, weights=weights, ks=SHOWN)
        known = material.train_intents
        if known is not None and known.store.unit == "item":
            self.model.add_item_intents().fit(known.store.by_item(self.recipe.num_items))
        elif known is not None:
            measured["predictor"] = distil(self.model, material.sessions, material.train, known)
        source = self.model.own_source
        recipe = self.recipe._replace(predictor=source == "predictor", item_intents=source == "items")
        if self.model.counted is not None:
            recipe = recipe._replace(counted=self.model.counted.names)
        save_model(self.folder, self.model, recipe=recipe, catalogue=catalogue, facts=facts | measured)
        return measured


def _standing(entry: dict[str, Any]) -> str:
    valid = f" {SELECT_BY} {100 * entry['valid'][SELECT_BY]:.2f}%" if entry["valid"] else ""
    return f"epoch {entry['epoch']} loss {entry['loss']:.3f}{valid}"
