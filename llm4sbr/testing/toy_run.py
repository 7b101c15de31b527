"""Writes the results of a run's first stages for toy data, without reader, LLM or encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from llm4sbr.data.batches import sample_keys
from llm4sbr.data.prepared import Prepared, catalogue_hash, save
from llm4sbr.intents import IntentWriter
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.store import write_tensors
from llm4sbr.testing.toy import toy_catalogue, toy_sessions

WIDTH = 8
"""E of the toy intents."""


def toy_run(
    run: Path,
    *,
    items: int = 20,
    sessions: int = 60,
    sources: Sequence[str] = ("llm", "item-text", "shuffled"),
    perspectives: Sequence[str] = ("long", "short"),
    split: str = "temporal",
    valid: bool = True,
) -> Path:
    """Write `prepare` and `localize` of a run and return it.

    Item i is followed by item i + 1. The last sixth of the sessions is the test part, and the sixth before it
    the validation part, unless `valid` is false. An intent is the text vector of the sample's target; with
    `shuffled` it is that of another sample's target. Every fifth sample has no intent.
    """
    whole = toy_sessions(items=items, sessions=sessions)
    catalogue = toy_catalogue(items)
    sixth = sessions // 6
    first_valid = sessions - sixth * (2 if valid else 1)
    parts = {
        "train": range(first_valid),
        "valid": range(first_valid, sessions - sixth),
        "test": range(sessions - sixth, sessions),
    }
    samples = {name: _prefixes(whole, part) for name, part in parts.items()}
    end = int(whole.offsets[first_valid])
    train = Sessions(whole.items[:end].clone(), whole.offsets[: first_valid + 1].clone())
    (run / "prepare").mkdir(parents=True)
    prepared = Prepared(catalogue, whole, train, samples, {"rules": {"split": split, "repeats": False}})
    save(
        run / "prepare",
        prepared,
        names=pl.Series([f"u{number}" for number in range(sessions)]),
        times=pl.Series([float(number) for number in range(sessions)]),
    )
    for source in sources:
        _intents(run / "localize" / source, prepared, perspectives, shuffled=source == "shuffled")
    if sources:
        write_tensors(run / "localize" / "items.safetensors", {"items": _vectors(items)})
    return run


def _prefixes(sessions: Sessions, part: range) -> Samples:
    pairs = [
        (int(sessions.offsets[one]), end)
        for one in part
        for end in range(int(sessions.offsets[one]) + 1, int(sessions.offsets[one + 1]))
    ]
    start, end = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    return Samples(start, end, sample_keys(sessions, start, end))


def _intents(folder: Path, prepared: Prepared, perspectives: Sequence[str], *, shuffled: bool) -> None:
    every = list(prepared.samples.values())
    keys = torch.cat([samples.key for samples in every])
    targets = prepared.sessions.items[torch.cat([samples.end for samples in every])]
    keys, index = _unique(keys)
    targets = targets[index]
    if shuffled:
        targets = targets.roll(7)
    answered = torch.arange(len(keys)) % 5 > 0
    keys, targets = keys[answered], targets[answered]
    vectors = _vectors(prepared.catalogue.size)
    intents = vectors[targets - 1].unsqueeze(1).expand(-1, len(perspectives), -1)
    about = {"catalogue": catalogue_hash(prepared.catalogue)}
    writer = IntentWriter(folder, perspectives, about=about)
    located = targets[:, None, None].expand(-1, len(perspectives), 1)
    writer.add(keys, intents, located, torch.ones(located.shape))
    writer.close()


def _vectors(items: int) -> Tensor:
    """Random text vectors of the items, float32 (N, `WIDTH`)."""
    return torch.randn(items, WIDTH, generator=torch.Generator().manual_seed(0))


def _unique(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct keys in ascending order, and the position of the first occurrence of each."""
    order = keys.argsort(stable=True)
    kept = keys[order]
    first = torch.cat([torch.tensor([True]), kept[1:] != kept[:-1]])
    return kept[first], order[first]
