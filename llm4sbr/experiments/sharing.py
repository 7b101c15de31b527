"""Shares work between cells: finished stages and models of one cell are linked into others.

A stage is reused if its stamp would be the same. A trained model is reused if everything that its weights
depend on is the same. A plain backbone does not depend on intents, so one training serves every f and every
part of an ablation; a fused model trained without intents does not depend on how answers were localized.
Files of a finished stage are never modified, so hard links are safe.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm4sbr import freshness, stamps, store
from llm4sbr.config import Config
from llm4sbr.evaluation.comparison import ALONE, PLAIN
from llm4sbr.fusion.saved import RECORD
from llm4sbr.stages.train import variants

PREPARE, INFER, LOCALIZE, TRAIN, _ = freshness.STAGES

NOT_THE_MODEL = ("train.seeds", "train.seed", "train.baselines", "train.plain", "infer.controls")
"""Settings in the stamp of `train` that decide which models are trained, not what a model learns."""
INTENTS = ("output of localize",)
FUSION = ("train.fuser", "train.fuser_options", "train.tau", "train.intent_dropout", "version of fusers/")


def share_stages(run: Path, config: Config, donors: Iterable[Path]) -> None:
    """Link the stages before `train` from a run that has finished them with the same stamp."""
    for stage in (PREPARE, INFER, LOCALIZE):
        stamp = freshness.stamp_for(run, stage, config)
        if _fingerprint(run / stage.name) == stamp.fingerprint:
            continue
        found = next((d for d in donors if _fingerprint(d / stage.name) == stamp.fingerprint), None)
        if found is None:
            return
        copy = run / f"{stage.name}.linked"
        shutil.rmtree(copy, ignore_errors=True)
        _link(found / stage.name, copy)
        store.replace_folder(copy, run / stage.name)


def share_models(run: Path, config: Config, donors: Sequence[Path]) -> int:
    """Link models that this run needs and that it or another run has trained; returns their number.

    Args:
        run: run folder; all stages before `train` are finished.
        config: the run's configuration.
        donors: other runs.
    """
    found = 0
    stamp = freshness.stamp_for(run, TRAIN, config)
    if _fingerprint(run / TRAIN.name) == stamp.fingerprint:
        return 0
    sources = [(donor, parts) for donor in (run, *donors) if (parts := _trained(donor)) is not None]
    for variant, folder in wanted(run, config, stamp):
        decisive = _decisive(variant, run, stamp.parts)
        for donor, parts in sources:
            model = donor / TRAIN.name / variant / folder.name
            if (model / RECORD).exists() and _decisive(variant, donor, parts) == decisive:
                _link(model, folder)
                found += 1
                break
    return found


def wanted(run: Path, config: Config, stamp: stamps.Stamp) -> Iterator[tuple[str, Path]]:
    """Variant and folder of every model that the unfinished stage `train` still lacks; begins the stage."""
    out = stamps.begin_stage(run / TRAIN.name, stamp)
    for seed in range(config.train.seed, config.train.seed + config.train.seeds):
        for variant in variants(run, config):
            folder = out / variant / f"seed-{seed}"
            if not (folder / RECORD).exists():
                yield variant, folder


def _trained(run: Path) -> dict[str, Any] | None:
    """Stamp parts of a finished `train`, if it is up to date with the stages before it."""
    stamp = stamps.read_stamp(run / TRAIN.name)
    if stamp is None:
        return None
    now = {stage.name: stamps.read_stamp(run / stage.name) for stage in (PREPARE, LOCALIZE)}
    fits = all(one and stamp.parts.get(f"output of {name}") == one.content for name, one in now.items())
    return stamp.parts if fits else None


def _decisive(variant: str, run: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Everything that a model's weights depend on, by dotted key."""
    ignored: tuple[str, ...] = NOT_THE_MODEL
    if variant in ALONE:
        ignored += (*FUSION, *INTENTS)
    if variant == PLAIN:
        ignored += ("train.neighbours",)
    if variant == "none":
        ignored += INTENTS
    found = {key: value for key, value in parts.items() if not key.startswith(ignored)}
    if variant == "none":  # depends only on the intents' shape, and on the titles that some fusers use
        upstream = (stamps.read_stamp(run / INFER.name), stamps.read_stamp(run / LOCALIZE.name))
        asked, tied = (stamp.parts if stamp else {} for stamp in upstream)
        found |= {"infer.perspectives": asked.get("infer.perspectives")}
        found |= {key: value for key, value in tied.items() if "encoder" in key or "item_text" in key}
    return found


def _fingerprint(folder: Path) -> str | None:
    stamp = stamps.read_stamp(folder)
    return stamp.fingerprint if stamp else None


def _link(source: Path, target: Path) -> None:
    """Link all files into another folder, the stamp last, since it marks the folder as complete."""
    for path in sorted(source.rglob("*"), key=lambda one: one.name in (RECORD, store.STAMP)):
        if path.is_file():
            new = target / path.relative_to(source)
            new.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            try:
                os.link(path, new)
            except OSError:  # another file system, or one without hard links
                shutil.copy2(path, new)
