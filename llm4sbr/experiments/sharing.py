"""Avoids repeated work in an experiment: links finished stages and models of one cell into another.

A stage is linked from another cell if its stamp would be the same, and a trained model if everything that
decides its weights is the same, see `freshness`. Files of a finished stage are never modified, so hard links
are safe.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm4sbr import folders, stamps
from llm4sbr.config import Config
from llm4sbr.freshness import INFER, LOCALIZE, PREPARE, TRAIN, stamp_for
from llm4sbr.stages.train import models
from llm4sbr.stamps import Attempt, Stamp


def share_stages(run: Path, config: Config, donors: Iterable[Path]) -> None:
    """Link those stages before `train` that another run has finished with the same stamp.

    Args:
        run: the run to link stages into.
        config: its configuration.
        donors: other runs.
    """
    for stage in (PREPARE, INFER, LOCALIZE):
        stamp = stamp_for(run, stage, config)
        if _fingerprint(run / stage.name) == stamp.fingerprint:
            continue
        found = next((d for d in donors if _fingerprint(d / stage.name) == stamp.fingerprint), None)
        if found is None:
            return
        copy = run / f"{stage.name}.linked"
        shutil.rmtree(copy, ignore_errors=True)
        folders.link_files(found / stage.name, copy)
        folders.replace_folder(copy, run / stage.name)


def share_models(run: Path, config: Config, donors: Sequence[Path]) -> int:
    """Link the models that this run needs and another run has trained.

    Args:
        run: a run whose stages before `train` are finished.
        config: its configuration.
        donors: other runs.

    Returns:
        The number of models that need not be trained, linked or there before.
    """
    stamp = stamp_for(run, TRAIN, config)
    if _fingerprint(run / TRAIN.name) == stamp.fingerprint:
        return 0
    attempt = Attempt(stamps.begin_stage(run / TRAIN.name, stamp), stamp, run / TRAIN.name)
    found = 0
    for name, wanted in models(run, config, attempt).items():
        if attempt.has(name, wanted):
            found += 1
        elif donor := next((d for d in donors if stamps.whole(d / TRAIN.name / name, wanted)), None):
            shutil.rmtree(attempt.out / name, ignore_errors=True)
            folders.link_files(donor / TRAIN.name / name, attempt.out / name)
            found += 1
    return found


def missing_models(run: Path, config: Config) -> tuple[Path, dict[str, Stamp]]:
    """The folder of the unfinished stage `train`, and the models that are still missing in it."""
    stamp = stamp_for(run, TRAIN, config)
    out = stamps.begin_stage(run / TRAIN.name, stamp)
    attempt = Attempt(out, stamp, run / TRAIN.name)
    every = models(run, config, attempt)
    return out, {name: stamp for name, stamp in every.items() if not attempt.has(name, stamp)}


def _fingerprint(folder: Path) -> str | None:
    stamp = stamps.read_stamp(folder)
    return stamp.fingerprint if stamp else None
