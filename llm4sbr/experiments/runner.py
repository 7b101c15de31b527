"""Runs the cells of an experiment, resuming an interrupted one, and writes `experiment.json`.

First the stages up to `localize` run, one cell after the other, since cells share their results. Then models
are trained and evaluated, with `--jobs` in several cells at the same time. If a cell fails, its error is
recorded and the other cells continue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm4sbr import folders, pipeline, secrets, store
from llm4sbr.config import merge, nest
from llm4sbr.errors import StoreError, TrainingError
from llm4sbr.experiments import paper, sharing
from llm4sbr.experiments.grid import KINDS, Cell, Request, cells, command
from llm4sbr.experiments.machine import hardware
from llm4sbr.experiments.work import SHARES, Task, line_of, settle, work
from llm4sbr.fusion.saved import RECORD as MODEL
from llm4sbr.progress import Advance, Progress
from llm4sbr.system import processes
from llm4sbr.training.trained import model_folders

RECORD = "experiment.json"
OF_INTENTS = ("perspectives", "f", "part")
"""Axes that change the intents only, so that the plain backbone is the same for all their values."""
FORMAT = 1
"""Version of the format of `experiment.json`."""


def run_experiment(
    folder: Path, request: Request, *, jobs: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Bring every cell, in `folder`/runs/CELL, up to date.

    Args:
        folder: folder of the experiment, created if missing.
        request: what to run.
        jobs: number of cells trained in parallel; with more than one, each trains its models one by one.
        progress: shows the progress.

    Returns:
        The content of `experiment.json`, which is written after every cell. At the end, `report.html` is
        written too.

    Raises:
        Llm4sbrError: the request is wrong or the folder cannot be used. An error inside a cell is recorded
            in it instead.
    """
    progress = progress or Progress()
    todo = cells(request)
    for cell in todo:
        secrets.refuse(cell.settings)
    with _held(folder, request.kind):
        book = _Book(folder, request, todo)
        ready = [cell for cell in todo if _upstream(cell, book, progress)]
        fresh = KINDS[request.kind].fresh_processes
        tasks = [Task(book.run(cell), cell.name, cell.settings, book.runs, fresh) for cell in ready]
        parts = sum(SHARES.values())
        with progress.task("experiment", parts * len(tasks), unit="cells", parts=parts) as advance:
            for wave in _waves(ready):
                several = [tasks[place] for place in wave]
                _train(several, book, jobs=1 if fresh else jobs, progress=progress, advance=advance)
        _write_report(folder)
        return book.content


def _write_report(folder: Path) -> None:
    from llm4sbr.report.page.write import write_experiment  # imported here because it loads matplotlib

    write_experiment(folder)


def failures(content: dict[str, Any]) -> list[str]:
    """One line per failed cell."""
    return [f"{cell['name']}: {cell['error']}" for cell in content["cells"] if cell["status"] == "failed"]


class _Book:
    """The state of every cell, saved after every change."""

    def __init__(self, folder: Path, request: Request, todo: Sequence[Cell]) -> None:
        self.folder = folder
        self.runs = [folder / "runs" / cell.name for cell in todo]
        self.records = {cell.name: _blank(cell) for cell in todo}
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "experiment": request.kind,
            "command": command(request),
            "cells": list(self.records.values()),
            "hardware": hardware(),
            "versions": {},
        }
        self._write()

    def run(self, cell: Cell) -> Path:
        """The cell's run folder."""
        return self.folder / "runs" / cell.name

    def failed(self, name: str, error: str) -> None:
        """Record that the cell failed with this message."""
        self.records[name].update(status="failed", error=error)
        self._write()

    def pending(self, tasks: Sequence[Task]) -> list[str]:
        """Cells that have not failed or finished."""
        return [task.name for task in tasks if self.records[task.name]["status"] == "pending"]

    def done(self, name: str) -> None:
        """Record that the cell's run is finished."""
        record = self.records[name]
        run = self.folder / record["run"]
        metrics, stats = (
            store.read_json(run / path) for path in ("evaluate/metrics.json", "prepare/stats.json")
        )
        record.update(status="done", metrics=metrics)
        record.update(paper=paper.figures(record["axes"], metrics, stats), notes=paper.notes(metrics, stats))
        record["notes"] += record.pop("left_out")
        record.update(training=_training(run), asked=_asked(run))
        self.content["versions"] |= store.read_record(run / "versions.json")
        self._write()

    def _write(self) -> None:
        store.write_record(self.folder / RECORD, self.content)


def _blank(cell: Cell) -> dict[str, Any]:
    data = {key: value for key, value in cell.settings["data"].items() if key != "path"}  # path: local
    found: dict[str, Any] = {"name": cell.name, "run": f"runs/{cell.name}", "axes": cell.axes}
    found |= {"status": "pending", "settings": {**cell.settings, "data": data}, "training": {}}
    found |= {"error": None, "metrics": None, "paper": None, "notes": []}
    return found | {"asked": {}, "left_out": list(cell.notes)}


def _asked(run: Path) -> dict[str, float]:
    """What the intents took: `asked`, `from_cache`, `tokens`, `seconds`; empty if no LLM was asked."""
    infer = store.read_json(run / "infer/infer.json")
    return {key: infer[key] for key in ("asked", "from_cache", "tokens", "seconds") if key in infer}


def _training(run: Path) -> dict[str, list[dict[str, int]]]:
    """Variant -> `seed`, `epochs` and `best_epoch` of each of its models."""
    found: dict[str, list[dict[str, int]]] = {}
    for folder in sorted(model_folders(run / "train")):
        facts = store.read_json(folder / MODEL)["facts"]
        numbers = {key: facts[key] for key in ("seed", "epochs", "best_epoch")}
        found.setdefault(folder.parent.name, []).append(numbers)
    return found


@contextmanager
def _held(folder: Path, kind: str) -> Iterator[None]:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: not a folder; name a folder for the experiment")
    record = folder / RECORD
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if record.exists() and (other := store.read_record(record).get("experiment")) != kind:
        raise StoreError(f"{folder}: contains the experiment {other}; name another folder for {kind}")
    if names - {folders.LOCK, "runs"} and not record.exists():
        raise StoreError(f"{folder}: contains other files and no experiment; name a new or empty folder")
    with folders.locked(folder, what="experiment"):
        yield


def _upstream(cell: Cell, book: _Book, progress: Progress) -> bool:
    """Run the stages before `train` for one cell; returns whether they succeeded."""
    progress.note(f"{cell.name}")
    run = book.run(cell)
    try:
        config = settle(run, cell.settings)
        sharing.share_stages(run, config, [one for one in book.runs if one != run])
        pipeline.execute(run, cell.settings, until="localize", progress=progress)
    except Exception as error:
        book.failed(cell.name, line_of(error))
        progress.note(f"{cell.name}: failed: {line_of(error)}")
        return False
    return True


def _waves(todo: Sequence[Cell]) -> list[list[int]]:
    """Two groups of cells (by index) to train one after the other.

    The first group has one cell per plain backbone; the second reuses these trained backbones.
    """
    first: dict[str, int] = {}
    for place, cell in enumerate(todo):
        shared = {name: value for name, value in cell.axes.items() if name not in OF_INTENTS}
        first.setdefault(store.fingerprint(shared), place)
    ahead = list(first.values())
    return [ahead, [place for place in range(len(todo)) if place not in ahead]]


def _train(tasks: Sequence[Task], book: _Book, *, jobs: int, progress: Progress, advance: Advance) -> None:
    if jobs > 1:
        alone = nest({"train.workers": 1})  # a worker process has no children
        tasks = [task._replace(settings=merge(task.settings, alone)) for task in tasks]
    left = [sum(SHARES.values())] * len(tasks)

    def going(index: int, n: int, note: str) -> None:
        left[index] -= n
        if n:
            advance(n, f"{tasks[index].name} {note}")
        else:
            progress.note(f"{tasks[index].name}: {note}")

    def done(index: int, error: str) -> None:
        name = tasks[index].name
        book.failed(name, error) if error else book.done(name)
        advance(left[index])
        progress.note(f"{name}: {f'failed: {error}' if error else 'done'}")

    try:
        processes.run(work, tasks, workers=jobs, progress=going, done=done)
    except TrainingError as error:  # a worker died, which ended the whole pool
        for name in book.pending(tasks):
            book.failed(name, line_of(error))
