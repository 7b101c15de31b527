"""The HTML report's training curves, from every model's `log.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.fusion.saved import RECORD
from llm4sbr.report.page import figures
from llm4sbr.training import SELECT_BY
from llm4sbr.training.checkpoint import LOG
from llm4sbr.training.trained import model_folders

Epoch = Mapping[str, Any]
"""A line of the log."""


class TrainingLog(NamedTuple):
    """How one model was trained."""

    variant: str
    seed: str
    epochs: list[Epoch]
    best: int | None
    """The epoch that was kept."""


def training(run: Path, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Per measure a title and one chart of each variant, with a line per seed and the kept epoch ringed.

    Args:
        run: has `train`.
        labels: variant -> how people know it, in the order of the charts.

    Raises:
        StoreError: a log is not whole.
    """
    logs = [_log(folder / LOG) for folder in sorted(model_folders(run / "train"))]
    names = list(dict.fromkeys([*labels, *(log.variant for log in logs)]))
    measures: dict[tuple[str, str], Callable[[Epoch], float | None]] = {
        (f"{SELECT_BY}, by which the epoch was chosen", f"{SELECT_BY}, percent"): _chosen_by,
        ("Training loss", "cross entropy, nats"): lambda epoch: epoch.get("recommendation"),
    }
    found = [
        {"title": title, "charts": _charts(logs, names, labels, read, unit=unit)}
        for (title, unit), read in measures.items()
    ]
    return [one for one in found if one["charts"]]


def _log(path: Path) -> TrainingLog:
    try:
        epochs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: not a whole training log ({error})") from None
    record = path.with_name(RECORD)
    best = store.read_json(record)["facts"].get("best_epoch") if record.exists() else None
    return TrainingLog(path.parent.parent.name, path.parent.name, epochs, best)


def _chosen_by(epoch: Epoch) -> float | None:
    found = epoch.get("valid", {}).get(SELECT_BY)
    return None if found is None else 100 * found


def _charts(
    logs: Sequence[TrainingLog],
    names: Sequence[str],
    labels: Mapping[str, str],
    read: Callable[[Epoch], float | None],
    *,
    unit: str,
) -> list[figures.LineChart]:
    """One chart per variant, all with the same axes."""
    drawn: dict[str, list[figures.Series]] = {}
    for log in logs:
        points = [(float(one["epoch"]), y) for one in log.epochs if (y := read(one)) is not None]
        ring = next((place for place, (x, _) in enumerate(points) if x == log.best), None)
        style = figures.style_of(log.variant, names)
        if points:
            series = figures.Series(log.seed, points, style, best=ring)
            drawn.setdefault(log.variant, []).append(series)
    every = [one for series in drawn.values() for one in series]
    limits = figures.y_limits(every)
    last = max((x for one in every for x, _ in one.points), default=1.0)
    epochs = {mark: figures.number(mark) for mark in figures.ticks(0, last) if mark <= last and mark % 1 == 0}
    return [
        figures.line_chart(
            labels.get(name, name), drawn[name], unit=unit, x_label="epoch", x_names=epochs, limits=limits
        )
        for name in names
        if name in drawn
    ]
