"""In which order samples are asked, for a budget that does not cover all of them.

`coverage`: validation and test samples and whole training sessions, the same share of each, before shorter
prefixes; in both groups first the prompts that answer the most samples; of items, those that most samples end
with. `random`: a random share of every split. `recent`: the most recent sessions first. `uncertain`: first
the samples for which a briefly trained plain backbone is least sure about the next item.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm4sbr import store
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.config import Config
from llm4sbr.data.batches import batches
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.mapped import blocks, mapped, places, taken
from llm4sbr.data.mapped import order as ordered
from llm4sbr.data.prepared import AT_ONCE, SESSIONS, Prepared, catalogue_hash
from llm4sbr.errors import ConfigError
from llm4sbr.evaluation.ranking import MOST_SCORES, pick_device, scorer
from llm4sbr.fusion.model import LLM4SBR, Recipe
from llm4sbr.fusion.saved import load_model
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples
from llm4sbr.training.material import Material
from llm4sbr.training.trainer import train_model

EPOCHS = 2
"""Training epochs of the backbone that `uncertain` uses; it only has to learn which samples are easy."""

BATCH = 512
"""Prefixes scored per batch."""

UNCERTAINTY = "uncertainty.safetensors"


def order(
    run: Path,
    out: Path,
    samples: Distinct,
    prepared: Prepared,
    config: Config,
    progress: Progress,
    *,
    keys: PromptKeys,
) -> Sequence[int]:
    """Rows of `samples` in the order to ask them; deterministic, so a resumed stage uses the same one.

    Args:
        run: run folder with `prepare`.
        out: folder where a computed order is saved for a resumed stage.
        samples: all samples.
        prepared: the data.
        config: `infer.select`, `infer.seed`, and the backbone's settings.
        progress: shows the training for `uncertain`.
        keys: of the prompts of all samples.

    Raises:
        ConfigError: this order cannot be had of these samples.
    """
    rows = places(len(samples.keys))
    # shuffled first, so that ties are in random order
    random.Random(config.infer.seed).shuffle(rows.numpy().data)  # type: ignore[arg-type]
    if config.infer.select == "random":
        return rows.numpy().data
    if samples.unit == "item":
        values = _visits(prepared, config.infer.select)
        return taken(rows, ordered(taken(values, rows), descending=True)).numpy().data
    values = {
        "coverage": lambda: _coverage(samples, prepared, keys),
        "recent": lambda: _recent(run, samples, prepared),
        "uncertain": lambda: _unsure(run, out, samples, prepared, config, progress),
    }[config.infer.select]()
    return taken(rows, ordered(taken(values, rows), descending=True)).numpy().data


def _coverage(samples: Distinct, prepared: Prepared, keys: PromptKeys) -> Tensor:
    """int64 (M,): how many samples have the prompts that each has; `Distinct.wholes` above all others."""
    count, per_sample = len(samples.keys), keys.keys_per_sample
    short = mapped(keys.short()).numpy().reshape(count, per_sample)
    odd = 2 * np.arange(per_sample) + 1  # any weights that tell the perspectives apart
    prompts = mapped((short[some] * odd).sum(1) for some in blocks(count)).numpy()
    ranked = mapped(prompts[some] for some in blocks(count)).numpy()
    ranked.sort()
    first = samples.wholes(prepared).numpy()

    def values() -> Iterator[NDArray[np.int64]]:
        for some in blocks(count):
            left, right = (ranked.searchsorted(prompts[some], side) for side in ("left", "right"))
            yield first[some] * (count + 1) + right - left

    return mapped(values())


def _visits(prepared: Prepared, select: str) -> Tensor:
    """int64 (N,): the number of samples that end with each item."""
    if select != "coverage":
        raise ConfigError(
            f"infer.select = {select!r} chooses among sessions, and these perspectives ask about items; take "
            "coverage or random"
        )
    found = torch.zeros(prepared.catalogue.size + 1, dtype=torch.int64)
    for part in prepared.samples.values():
        found += torch.bincount(prepared.sessions.items[part.end - 1], minlength=len(found))
    return mapped([found[1:].numpy()])


def _recent(run: Path, samples: Distinct, prepared: Prepared) -> Tensor:
    """float64 (M,): start time of each sample's session."""
    parts = store.read_parts(run / "prepare" / SESSIONS, "time", AT_ONCE)
    times, offsets = mapped((part.to_numpy() for part in parts), np.float64), prepared.sessions.offsets
    ends = (samples.end[some] for some in blocks(len(samples.end)))
    owners = mapped((torch.searchsorted(offsets, end, right=True) - 1).numpy() for end in ends)
    return taken(times, owners)


def _unsure(
    run: Path, out: Path, samples: Distinct, prepared: Prepared, config: Config, progress: Progress
) -> Tensor:
    """float32 (M,): entropy, in nats, of a plain backbone's prediction after each prefix."""
    kept = out / UNCERTAINTY
    if kept.exists():
        return store.read_tensors(kept)["entropy"]
    folder, train = out / "selector", prepared.samples["train"]
    if not len(train.key):
        raise ConfigError("infer.select = 'uncertain': there are no training samples; take random or recent")
    nothing = Samples(*(field[:0] for field in train))
    catalogue = catalogue_hash(prepared.catalogue)
    settings = config.train.model_copy(update={"epochs": EPOCHS})
    recipe = Recipe(prepared.catalogue.size, settings.dim, settings.backbone, settings.options)
    material = Material(prepared.sessions, prepared.train, train, nothing, "none", catalogue)
    with progress.task("infer: who is unsure", EPOCHS * len(train.key), unit="samples") as advance:
        train_model(folder, recipe, material, settings, seed=config.infer.seed, report=advance, facts={})
    device = pick_device(settings.device)
    found = _entropies(load_model(folder).model.to(device), device, samples, prepared)
    store.write_tensors(kept, {"entropy": found})
    shutil.rmtree(folder)
    return found


@torch.inference_mode()
def _entropies(model: LLM4SBR, device: torch.device, samples: Distinct, prepared: Prepared) -> Tensor:
    score = scorer(model, None, device)
    found = torch.zeros(len(samples.keys))
    size = max(1, min(BATCH, MOST_SCORES // prepared.catalogue.size))
    for batch in batches(
        prepared.sessions, Samples(samples.start, samples.end, samples.keys), batch_size=size
    ):
        logs = score(batch).log_softmax(1)
        found[batch.index] = -(logs.exp() * logs).sum(1).cpu()
    return found
