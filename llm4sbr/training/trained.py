"""Finds the trained models of a run, and chooses one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llm4sbr import store
from llm4sbr.errors import InputError, StoreError
from llm4sbr.fusion.saved import RECORD
from llm4sbr.training import SELECT_BY


class Trained(NamedTuple):
    """A trained model that a run has."""

    variant: str
    seed: int
    valid: float
    """`SELECT_BY` on the validation samples, -1 if there are none."""
    folder: Path


def trained_models(run: Path) -> list[Trained]:
    """All trained models of a run, sorted by variant and seed; `StoreError` if there are none."""
    found = []
    for path in run.glob(f"train/*/seed-*/{RECORD}"):
        record = store.read_json(path)
        try:
            valid = record["facts"].get("valid", {}).get(SELECT_BY, -1.0)
            number = int(path.parent.name.removeprefix("seed-"))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise StoreError(f"{path}: not a model record; train again") from None
        found.append(Trained(path.parent.parent.name, number, valid, path.parent))
    if not found:
        raise StoreError(f"{run}: no trained model; run llm4sbr train {run} first")
    return sorted(found)


def choose(models: Sequence[Trained], *, variant: str | None = None, seed: int | None = None) -> Trained:
    """Choose a model: of `variant`, by default the LLM's if there is one; of `seed`, by default the best one.

    Raises:
        InputError: there is no such variant or seed.
    """
    variants = list(dict.fromkeys(one.variant for one in models))
    if variant is None:
        variant = "llm" if "llm" in variants else max(models, key=lambda one: one.valid).variant
    if variant not in variants:
        raise InputError(f"no variant {variant!r} is trained; there are {', '.join(variants)}")
    of_variant = [one for one in models if one.variant == variant]
    if seed is None:
        return max(of_variant, key=lambda one: one.valid)
    for one in of_variant:
        if one.seed == seed:
            return one
    seeds = ", ".join(str(one.seed) for one in of_variant)
    raise InputError(f"no seed {seed} of variant {variant!r} is trained; there are {seeds}")
