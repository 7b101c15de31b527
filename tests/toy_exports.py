"""A finished toy run with two models, and what is exported of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.progress import Progress
from llm4sbr.serving.artefact import Artefact
from llm4sbr.testing.toy_run import WIDTH, toy_run

ITEMS = 20
QUIET = Progress(quiet=True)


def add_model(run: Path, variant: str, **options: Any) -> None:
    catalogue = load(run / "prepare").catalogue
    recipe = Recipe(catalogue.size, 8, "stamp", **options)
    torch.manual_seed(0)
    folder = run / "train" / variant / "seed-0"
    save_model(folder, build(recipe), recipe=recipe, catalogue=catalogue_hash(catalogue), facts={})


def run_with_models(folder: Path) -> Path:
    """A run with a plain model, and one with the LLM's intents that can predict them."""
    run = toy_run(folder, items=ITEMS)
    both = ("long", "short")
    add_model(run, "plain")
    add_model(run, "llm", fuser="gated", perspectives=both, horizons=both, text_dim=WIDTH, predictor=True)
    return run


def asked(artefact: Artefact, sessions: list[list[int]], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, sessions))
    items = np.array([one + [0] * (width - len(one)) for one in sessions])
    return artefact.top(items, items > 0, **options)
