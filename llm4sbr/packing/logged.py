"""Tells a logger what a finished run found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llm4sbr import registry, secrets, stamps, store
from llm4sbr.config import flatten, read_toml
from llm4sbr.config.in_force import RESOLVED
from llm4sbr.errors import InputError, Llm4sbrError, StoreError
from llm4sbr.loggers import Logger
from llm4sbr.packing.contents import File, files_of, kind_of, without_paths
from llm4sbr.training.trained import model_folders

KEPT = ("report.html", "export/")
"""What of a run's files a logger is given."""


def log(run: Path, name: str, options: Mapping[str, Any], *, artefacts: bool = True) -> str:
    """Tell a logger the settings, curves, results and files of a run; returns where they are to be seen.

    Settings name data and models by the last part of their path, and no text or file that is told has a key
    in it.

    Args:
        run: its models are trained.
        name: of the logger.
        options: its own.
        artefacts: whether it is given the report and the exports.

    Raises:
        StoreError: the folder is no run, nothing is trained yet, or a file is damaged.
        InputError: a file has a key in it; or what the logger writes to cannot be written to.
        RegistryError: there is no such logger, or it does not take an option.
    """
    stamps.check_there(run)
    if kind_of(run) != "run":
        raise StoreError(f"{run}: an export; name the run that it came from")
    folders = sorted(model_folders(run / "train")) if (run / "train").exists() else []
    if not folders:
        raise StoreError(f"{run}: nothing is trained yet; run llm4sbr train {run} first")
    settings = {key: secrets.mask(str(one)) for key, one in _settings(run).items()}
    files = [one for one in files_of(run) if one.name.startswith(KEPT)] if artefacts else []
    logger: Logger = registry.create("loggers", name, **options)
    try:
        logger.begin(run, settings)
        for folder in folders:
            model = folder.relative_to(run / "train").as_posix()
            for step, values in _curve(store.checked(folder / "log.jsonl")):
                logger.curve(model, step, values)
        for row in _rows(run):
            logger.metrics(row["name"], {key: one["mean"] for key, one in row["metrics"].items()})
        with TemporaryDirectory(prefix="llm4sbr-") as temporary:
            for file in files:
                logger.artefact(file.name, _handed(file, Path(temporary)))
        return logger.end()
    except Llm4sbrError:
        raise
    except Exception as error:  # of the library behind it, whose classes are its own
        reason = secrets.mask(" ".join(str(error).split()))[:300]
        raise InputError(f"logger {name}: {type(error).__name__}: {reason}") from error


def _handed(file: File, temporary: Path) -> Path:
    """The file, or one of the same name without paths of this machine."""
    if file.changed is None:
        return file.path
    path = temporary / file.path.name
    path.write_bytes(file.changed)
    return path


def _settings(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = without_paths(flatten(read_toml(run / RESOLVED)))
    return found


def _rows(run: Path) -> list[dict[str, Any]]:
    path = run / "evaluate" / "metrics.json"
    return list(store.read_json(store.checked(path))["rows"]) if path.exists() else []


def _curve(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Epoch and numbers of every line of a model's log."""
    with store.open_for_reading(path) as stream:
        for line in stream:
            values = flatten(json.loads(line))
            numbers = {key: float(one) for key, one in values.items() if type(one) in (int, float)}
            yield int(numbers.pop("epoch")), numbers
