"""The page's training curves, from every model's `log.jsonl`, and the table of the models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.fusion.saved import RECORD
from llm4sbr.report.models import models_table
from llm4sbr.report.page import charts
from llm4sbr.report.page.looks import look_of
from llm4sbr.training import SELECT_BY
from llm4sbr.training.checkpoint import LOG
from llm4sbr.training.trained import model_folders

Epoch = Mapping[str, Any]
"""One line of the log."""


class TrainingLog(NamedTuple):
    """How one model was trained."""

    variant: str
    seed: str
    epochs: list[Epoch]
    best: int | None
    """The epoch whose weights were kept."""


def training(run: Path, labels: Mapping[str, str]) -> dict[str, Any] | None:
    """Charts of loss and metrics with a line per model, the best epoch marked; None if nothing was trained.

    Args:
        run: a run with trained models.
        labels: variant -> its label, in the order of the legend.

    Raises:
        StoreError: a log is not whole.
    """
    logs = [_log(folder / LOG) for folder in sorted(model_folders(run / "train"))]
    if not logs:
        return None
    names = [name for name in dict.fromkeys([*labels, *(log.variant for log in logs)]) if _has(logs, name)]
    measures: dict[tuple[str, str], Callable[[Epoch], float | None]] = {
        (f"{SELECT_BY}, by which the epoch was chosen", f"{SELECT_BY}, percent"): _chosen_by,
        ("Training loss", "cross entropy, nats"): lambda epoch: epoch.get("recommendation"),
    }
    records = [store.read_json(path) for path in sorted(run.glob(f"train/*/seed-*/{RECORD}"))]
    drawn = [
        charts.line_chart(title, series, unit=unit, x_label="epoch")
        for (title, unit), read in measures.items()
        if (series := _series(logs, names, labels, read))
    ]
    return {
        "charts": drawn,
        "legend": [(labels.get(name, name), charts.legend_key(look_of(name, names))) for name in names],
        "table": models_table(records) if records else None,
    }


def _log(path: Path) -> TrainingLog:
    try:
        epochs = [json.loads(line) for line in store.read_text(path).splitlines()]
    except ValueError as error:
        raise StoreError(f"{path}: not a whole training log ({error})") from None
    record = path.with_name(RECORD)
    best = store.read_json(record)["facts"].get("best_epoch") if record.exists() else None
    return TrainingLog(path.parent.parent.name, path.parent.name, epochs, best)


def _has(logs: Sequence[TrainingLog], variant: str) -> bool:
    return any(log.variant == variant for log in logs)


def _chosen_by(epoch: Epoch) -> float | None:
    found = epoch.get("valid", {}).get(SELECT_BY)
    return None if found is None else 100 * found


def _series(
    logs: Sequence[TrainingLog],
    names: Sequence[str],
    labels: Mapping[str, str],
    read: Callable[[Epoch], float | None],
) -> list[charts.Series]:
    """A line per variant and seed."""
    found = []
    for log in sorted(logs, key=lambda log: names.index(log.variant)):
        points = [(float(one["epoch"]), y) for one in log.epochs if (y := read(one)) is not None]
        ring = next((place for place, (x, _) in enumerate(points) if x == log.best), None)
        if points:
            label = f"{labels.get(log.variant, log.variant)}, {log.seed}"
            found.append(charts.Series(label, points, look_of(log.variant, names), best=ring))
    return found
