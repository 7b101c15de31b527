from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm4sbr.loggers import EVENTS, TensorBoard
from llm4sbr.testing.loggers import Kept, LoggerContract

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def opened(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / EVENTS))
    found.Reload()
    return found


class TestTensorBoard(LoggerContract):
    def create(self, folder: Path) -> TensorBoard:
        return TensorBoard(folder=str(folder))

    def read(self, folder: Path) -> dict[str, Kept]:
        return {run.name: kept(run) for run in folder.iterdir()}


def kept(run: Path) -> Kept:
    rows = opened(run).Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode().splitlines()
    settings = dict(row[3:-2].split("` | ", 1) for row in rows[2:])
    curves: dict[str, dict[int, dict[str, float]]] = {}
    metrics: dict[str, dict[str, float]] = {}
    for path in run.rglob(EVENTS):
        model = path.parent.relative_to(run).as_posix()
        events = opened(path.parent)
        for tag in events.Tags()["scalars"]:
            kind, _, name = tag.partition("/")
            for one in events.Scalars(tag):
                if kind == "test":
                    metrics.setdefault(model, {})[name] = one.value
                else:
                    curves.setdefault(model, {}).setdefault(one.step, {})[name] = one.value
    return Kept({key: value.replace("\\|", "|") for key, value in settings.items()}, curves, metrics, {})
