"""Finds the trained models of a run, and chooses the one that is served, exported or refitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llm4sbr import stamps, store
from llm4sbr.errors import InputError, StoreError
from llm4sbr.freshness import baseline_part, part_stamp
from llm4sbr.fusion.saved import RECORD
from llm4sbr.training import SELECT_BY

LLM, CONTROL = "llm", "shuffled"
"""Two variants: trained with the LLM's intents, and with intents shuffled between sessions."""


class Trained(NamedTuple):
    """A trained model of a run."""

    variant: str
    seed: int
    valid: float
    """The metric `SELECT_BY` on the validation samples; -1 if there are none."""
    folder: Path
    refitted: bool = False
    """Whether `refit` trained it again on all sessions."""


MODELS = "models.json"
"""File in the folder of the stage `train` that lists the models which the run's settings ask for."""


def write_models(out: Path, asked: Sequence[str]) -> None:
    """Write the list of the models that the settings ask for, each as `<variant>/seed-<k>`."""
    store.write_json(out / MODELS, {"asked": list(asked)})


def model_folders(out: Path) -> list[Path]:
    """Folders of the models that the settings asked for when `train` last ran.

    Older versions wrote no list; in their runs these are all models.
    """
    path = out / MODELS
    if path.exists():
        return [out / name for name in store.read_json(path)["asked"]]
    return sorted(record.parent for record in out.glob(f"*/seed-*/{RECORD}"))


def other_folders(run: Path) -> list[Path]:
    """Folders of models that the settings no longer ask for, but that are still fresh."""
    out = run / "train"
    stage = stamps.read_stamp(out)
    if stage is None:
        return []
    asked, attempt = model_folders(out), stamps.Attempt(out, stage)
    there = [name for name in stamps.parts_of(out) if out / name not in asked]
    return [out / name for name in there if attempt.has(name, part_stamp(run, name, attempt))]


def trained_models(run: Path, *, others: bool = False) -> list[Trained]:
    """Trained models of a run, ordered by variant and seed.

    Args:
        run: the run directory.
        others: also the models that the settings no longer ask for, if they are fresh.

    Raises:
        StoreError: nothing is trained, or a record is damaged.
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
    """Choose one model of a run, see `choose`.

    Models that the settings no longer ask for are considered only if `variant` or `seed` names one.
    """
    named = variant is not None or seed is not None
    asked = trained_models(run)
    try:
        return choose(asked, variant=variant, seed=seed)
    except InputError:
        if not named:
            raise
        return choose(trained_models(run, others=True), variant=variant, seed=seed)


def choose(models: Sequence[Trained], *, variant: str | None = None, seed: int | None = None) -> Trained:
    """Choose the model of `variant` and `seed`; where they are not given, the best on validation.

    Variants are compared by the mean over their seeds; without validation samples `llm` is preferred.
    `shuffled` is a control, which is chosen only if it is named or if there is no other variant.

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
    """Variant -> mean over its seeds of `SELECT_BY` on the validation samples; -1 if there are none."""
    found: dict[str, list[float]] = {}
    for one in models:
        found.setdefault(one.variant, []).append(one.valid)
    return {variant: sum(values) / len(values) for variant, values in found.items()}


class Measured(NamedTuple):
    """A baseline of a run's table."""

    valid: float
    """`SELECT_BY` on the validation samples."""
    linear: bool
    """Whether it can be recommended from and exported, see `training.linear`."""


def baselines_of(run: Path) -> dict[str, Measured]:
    """The baselines of a run's table that were validated on its data; none before `evaluate`."""
    table, data = run / "evaluate" / "metrics.json", stamps.read_stamp(run / "prepare")
    if not table.exists() or data is None:
        return {}
    found = {}
    for row in store.read_json(table)["rows"]:
        folder = run / "evaluate" / baseline_part(row["name"])
        stamp = stamps.read_stamp(folder) if row["kind"] == "baseline" else None
        if stamp is None or stamp.parts.get("output of prepare") != data.content:
            continue
        about = store.read_json(folder / "about.json")
        if SELECT_BY in about.get("valid", {}):
            found[row["name"]] = Measured(about["valid"][SELECT_BY], about["linear"])
    return found


def better_baseline(run: Path) -> str | None:
    """The best baseline that can be served, if it is better on validation than every trained variant."""
    known = {name: one.valid for name, one in baselines_of(run).items() if one.linear}
    if not known:
        return None
    best = max(known, key=lambda name: known[name])
    means = validated(trained_models(run))
    own = max((mean for name, mean in means.items() if name != CONTROL), default=-1.0)
    return best if 0 <= own < known[best] else None


def reason(run: Path, trained: Trained) -> str:
    """One line that says why this model is served, or which other one is better on validation."""
    baselines = baselines_of(run)
    is_baseline = trained.variant in baselines
    name = f"model {trained.variant}" + ("" if is_baseline else f", seed {trained.seed}")
    means = validated(trained_models(run, others=True)) if trained.valid >= 0 else {}
    means |= {one: found.valid for one, found in baselines.items()} if trained.valid >= 0 else {}
    own = means.pop(trained.variant, trained.valid)
    means.pop(CONTROL, None)
    if not means:
        return name
    best = max(means, key=lambda other: means[other])
    values = f"{SELECT_BY} on validation {own:.2%}, {best} {means[best]:.2%}"
    if own >= means[best]:
        return f"{name}: {values}"
    told = f"{name}, though {best} does better: {values}"
    fixed = best in baselines and not baselines[best].linear
    return f"{told}; {best} keeps no weights per item, so it cannot be served" if fixed else told


def refitted_folder(run: Path, trained: Trained) -> Path:
    """Folder for the refit of a trained model."""
    return run / "final" / trained.variant / f"seed-{trained.seed}"


def served(
    run: Path, *, variant: str | None = None, seed: int | None = None, refitted: bool | None = None
) -> Trained:
    """The model to serve: that of `chosen_model`, or its refit on all sessions if there is one.

    Args:
        run: the run directory.
        variant: see `chosen_model`.
        seed: see `chosen_model`.
        refitted: true requires the refit, false ignores it; None takes it if there is one.

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
        why = "is of a model that has been trained again since" if stamp else "is not there"
        raise InputError(f"{folder}: the refit {why}; llm4sbr refit {run}")
    return trained


def refit_stamp(trained: Trained) -> stamps.Stamp:
    """The stamp of a refit, which depends on the weights of the trained model."""
    return stamps.Stamp("refit", {"weights": store.read_json(trained.folder / RECORD).get("weights")})
