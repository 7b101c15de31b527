"""Finds the trained models of a run, and chooses one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llm4sbr import stamps, store
from llm4sbr.errors import InputError, StoreError
from llm4sbr.freshness import part_stamp
from llm4sbr.fusion.saved import RECORD
from llm4sbr.training import SELECT_BY

LLM, CONTROL = "llm", "shuffled"
"""The variant with the LLM's intents, and the one that is trained with other sessions' intents."""


class Trained(NamedTuple):
    """A trained model that a run has."""

    variant: str
    seed: int
    valid: float
    """`SELECT_BY` on the validation samples, -1 if there are none."""
    folder: Path
    refitted: bool = False
    """Trained on all sessions, by `refit`."""


MODELS = "models.json"
"""In the folder of `train`: the models that were asked for."""


def write_models(out: Path, asked: Sequence[str]) -> None:
    """Note which of the models in the folder of `train` were asked for, each as `<variant>/seed-<k>`."""
    store.write_json(out / MODELS, {"asked": list(asked)})


def model_folders(out: Path) -> list[Path]:
    """Folders of the models that were asked for last; what an older version wrote was all asked for."""
    path = out / MODELS
    if path.exists():
        return [out / name for name in store.read_json(path)["asked"]]
    return sorted(record.parent for record in out.glob(f"*/seed-*/{RECORD}"))


def other_folders(run: Path) -> list[Path]:
    """Folders of models that nobody asks for now, and that would not be trained differently."""
    out = run / "train"
    stage = stamps.read_stamp(out)
    if stage is None:
        return []
    asked, attempt = model_folders(out), stamps.Attempt(out, stage)
    there = [name for name in stamps.parts_of(out) if out / name not in asked]
    return [out / name for name in there if attempt.has(name, part_stamp(run, name, attempt))]


def trained_models(run: Path, *, others: bool = False) -> list[Trained]:
    """Trained models of a run, by variant and seed; `StoreError` if there is none or one is damaged.

    Args:
        run: the run directory.
        others: also those that are no longer asked for and fit those that are.
    """
    stamps.check_there(run)
    found = []
    for folder in [*model_folders(run / "train"), *(other_folders(run) if others else ())]:
        record = store.read_json(folder / RECORD)
        try:
            valid = record["facts"].get("valid", {}).get(SELECT_BY, -1.0)
            number = int(folder.name.removeprefix("seed-"))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise StoreError(f"{folder / RECORD}: not a model record; train again") from None
        found.append(Trained(folder.parent.name, number, valid, folder))
    if not found:
        raise StoreError(f"{run}: no trained model; run llm4sbr train {run} first")
    return sorted(found)


def chosen_model(run: Path, *, variant: str | None = None, seed: int | None = None) -> Trained:
    """One model of a run, see `choose`; one that is no longer asked for only if it is named."""
    named = variant is not None or seed is not None
    asked = trained_models(run)
    try:
        return choose(asked, variant=variant, seed=seed)
    except InputError:
        if not named:
            raise
        return choose(trained_models(run, others=True), variant=variant, seed=seed)


def choose(models: Sequence[Trained], *, variant: str | None = None, seed: int | None = None) -> Trained:
    """One model: of `variant` or `seed` if they are given, else the best on validation.

    A variant counts by the mean over its seeds; without validation the LLM's comes first. Intents of other
    sessions (`shuffled`) are a control and never chosen unasked.

    Raises:
        InputError: there is no such variant or seed.
    """
    variants = list(dict.fromkeys(one.variant for one in models))
    if variant is None:
        means = validated(models)
        means = {name: mean for name, mean in means.items() if name != CONTROL} or means
        variant = max(means, key=lambda name: (means[name], name == LLM))
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


def validated(models: Sequence[Trained]) -> dict[str, float]:
    """Variant -> `SELECT_BY` on the validation part, the mean over its seeds; -1 without validation."""
    found: dict[str, list[float]] = {}
    for one in models:
        found.setdefault(one.variant, []).append(one.valid)
    return {variant: sum(values) / len(values) for variant, values in found.items()}


def reason(run: Path, trained: Trained) -> str:
    """Why this model of a run is served, or that another one does better on validation; one line."""
    name = f"model {trained.variant}, seed {trained.seed}"
    means = validated(trained_models(run, others=True)) if trained.valid >= 0 else {}
    own = means.pop(trained.variant, trained.valid)
    means.pop(CONTROL, None)
    if not means:
        return name
    best = max(means, key=lambda other: means[other])
    told = f"{SELECT_BY} on validation {own:.2%}, {best} {means[best]:.2%}"
    return f"{name}: {told}" if own >= means[best] else f"{name}, though {best} does better: {told}"


def refitted_folder(run: Path, trained: Trained) -> Path:
    """Where the refit of a trained model belongs."""
    return run / "final" / trained.variant / f"seed-{trained.seed}"


def served(
    run: Path, *, variant: str | None = None, seed: int | None = None, refitted: bool | None = None
) -> Trained:
    """The model to serve: as `chosen_model`, and its refit on all sessions if there is one.

    Args:
        run: the run directory.
        variant: see `chosen_model`.
        seed: see `chosen_model`.
        refitted: whether it must be the refit, or must not; None takes it if it is there.

    Raises:
        InputError: there is no such model.
        StoreError: nothing is trained.
    """
    trained = chosen_model(run, variant=variant, seed=seed)
    if refitted is False:
        return trained
    folder = refitted_folder(run, trained)
    stamp = stamps.read_stamp(folder)
    if stamp and stamp.fingerprint == refit_stamp(trained).fingerprint:
        return trained._replace(folder=folder, refitted=True)
    if refitted:
        why = "is of a model that has been trained anew since" if stamp else "is not there"
        raise InputError(f"{folder}: the refit {why}; llm4sbr refit {run}")
    return trained


def refit_stamp(trained: Trained) -> stamps.Stamp:
    """What a refit of this very model is made from."""
    return stamps.Stamp("refit", {"weights": store.read_json(trained.folder / RECORD).get("weights")})
