"""Answers written by hand into a toy run, and localized by the letters of their texts."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from llm4sbr import config as settings
from llm4sbr.data.prepared import Prepared
from llm4sbr.progress import Progress
from llm4sbr.testing.localizers import LetterEncoder

stage = importlib.import_module("llm4sbr.stages.localize")
QUIET = Progress(quiet=True)


class Spy(LetterEncoder):
    """Counts the texts that are really encoded, by all instances."""

    texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        Spy.texts += texts
        return super().encode(texts)


def use_letters(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The encoder `letters` is a `Spy` from now on, and nothing is in the cache."""
    monkeypatch.setenv("LLM4SBR_CACHE", str(cache))
    create = stage.registry.create
    monkeypatch.setattr(Spy, "texts", [])

    def with_spy(kind: str, name: str, /, **options: Any) -> Any:
        return Spy(**options) if kind == "encoders" else create(kind, name, **options)

    monkeypatch.setattr(stage.registry, "create", with_spy)


def distinct_keys(prepared: Prepared) -> dict[int, list[int]]:
    """Sample key -> prefix."""
    return {
        int(key): prepared.prefix(samples, i)
        for samples in prepared.samples.values()
        for i, key in enumerate(samples.key)
    }


def write_answers(run: Path, source: str, answers: Mapping[str, Mapping[int, str]]) -> None:
    for perspective, parsed in answers.items():
        folder = run / "infer" / source
        folder.mkdir(parents=True, exist_ok=True)
        table = pl.DataFrame(
            {"key": list(parsed), "answer": list(parsed.values()), "parsed": list(parsed.values())},
            schema={"key": pl.Int64, "answer": pl.String, "parsed": pl.String},
        )
        table.sample(fraction=1, shuffle=True, seed=1).write_parquet(folder / f"{perspective}.parquet")


def last_titles(prepared: Prepared) -> dict[int, str]:
    return {key: prepared.catalogue.titles[ids[-1] - 1] for key, ids in distinct_keys(prepared).items()}


def first_titles(prepared: Prepared) -> dict[int, str]:
    return {key: prepared.catalogue.titles[ids[0] - 1] for key, ids in distinct_keys(prepared).items()}


def localize(run: Path, **chosen: Any) -> tuple[Path, dict[str, Any]]:
    out = run / "localize.tmp"
    out.mkdir(exist_ok=True)
    config = settings.build({"localize": {"encoder": "letters", "f": 2} | chosen})
    stage.localize(run, out, config, QUIET)
    return out, json.loads((out / "localize.json").read_text())
