"""`llm4sbr update`: brings a run up to date with its log, and hands the model over if it is not worse.

The next run is made beside the present one, `RUN.next`, as any other run is. Only when its export is handed
over does it take the name `RUN`, and the present one that of `RUN.before`. A model that is worse stays in
`RUN.next`, to be looked at, until the next night.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from llm4sbr import folders, pipeline, store
from llm4sbr.config import Settings, flatten, merge, nest, read_toml
from llm4sbr.config.in_force import CHOSEN, check_run
from llm4sbr.config.layers import DEFAULT
from llm4sbr.errors import InputError
from llm4sbr.progress import Progress
from llm4sbr.serving.artefact import RECORD
from llm4sbr.stages.export import Export, export
from llm4sbr.stages.refit import refit
from llm4sbr.training.trained import trained_models
from llm4sbr.updating.gate import as_dict, compare

DAY = 86_400.0


def update(
    run: Path,
    chosen: Settings,
    *,
    progress: Progress,
    serve: Path | None = None,
    refitted: bool = False,
    tolerance: float = 0.02,
    newest: float = DAY,
) -> dict[str, Any]:
    """Prepare, ask, train from the present models, evaluate, compare, export and hand over.

    Args:
        run: the present run, trained.
        chosen: settings to change, such as `data.path`.
        progress: shows the progress.
        serve: the folder that a server watches; by default the export in `run`.
        refitted: whether the model that passed is trained once more, on all sessions, before it is exported.
        tolerance: by how much the new model's HR@K and MRR@K may be lower, relative to the old one's.
        newest: seconds before the last click from which on sessions are compared on.

    Returns:
        `handed_over`, `gate`, and the folders `run`, `served` and `before`, or `refused`.

    Raises:
        InputError: nothing to compare on, or `serve` holds something else.
        Llm4sbrError: as the stages.
    """
    started = time.monotonic()
    new, before = (run.with_name(f"{run.name}.{name}") for name in ("next", "before"))
    if not run.exists() and new.exists() and before.exists():  # ended between two renames
        new.rename(run)
    check_run(run)
    trained_models(run)
    known = _served(serve or _artefact(run))
    with folders.locked(run, what="run"):
        settings = merge(_taken_back(new), read_toml(run / CHOSEN), chosen)
        config = pipeline.execute(new, settings, progress=progress, start=run)
        gate = compare(run, new, k=max(config.evaluate.k), newest=newest, tolerance=tolerance)
        progress.note(f"gate: {gate.sentence()}")
        found: dict[str, Any] = {"handed_over": gate.passed, "gate": as_dict(gate), "run": str(run)}
        if gate.passed:
            size = int(store.read_json(new / "prepare" / "stats.json")["catalogue"])
            wanted = Export(
                k=min(known.get("k", 20), size), precisions=tuple({known.get("precision", "fp32")})
            )
            if refitted:
                refit(new, config, progress)
            [name] = export(new, wanted, progress)
            if serve is not None:
                _hand_over(new / "export" / name, serve)
            shutil.rmtree(before, ignore_errors=True)
            run.rename(before)
            new.rename(run)
            found |= {"served": str(serve or run / "export" / name), "before": str(before)}
        else:
            found |= {"refused": str(new)}
    return found | {"seconds": round(time.monotonic() - started, 1)}


def _taken_back(new: Path) -> Settings:
    """What takes back the settings of a run that was refused, or interrupted."""
    path = new / CHOSEN
    return nest(dict.fromkeys(flatten(read_toml(path)), DEFAULT)) if path.exists() else {}


def _artefact(run: Path) -> Path:
    """Where the run's exported model is, or would be."""
    there = sorted(path.parent for path in run.glob(f"export/onnx*/{RECORD}"))
    return there[0] if len(there) == 1 else run / "export" / "onnx"


def _served(folder: Path) -> dict[str, Any]:
    """The record of the artefact in a folder, none if it is empty or not there."""
    folders.mend_folder(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return {}
    if not (folder / RECORD).exists():
        raise InputError(f"{folder}: holds other files and no exported model; name an export or a new folder")
    record: dict[str, Any] = store.read_record(folder / RECORD, "export into another folder")
    return record


def _hand_over(artefact: Path, serve: Path) -> None:
    """Put an artefact where a server looks, whole or not at all."""
    fresh = serve.with_name(serve.name + ".tmp")
    with store.explained(serve):
        shutil.rmtree(fresh, ignore_errors=True)
        folders.link_files(artefact, fresh)
        folders.replace_folder(fresh, serve)
