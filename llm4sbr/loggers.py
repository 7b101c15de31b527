"""What loggers are, and the logger `tensorboard`: curves, settings and results as event files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llm4sbr.folders import replace_folder
from llm4sbr.store import explained
from llm4sbr.system import installation

__all__ = ["Logger", "TensorBoard"]

EVENTS = "events.out.tfevents.0.llm4sbr"
"""Name of an event file; the usual ones have the machine's name."""


@runtime_checkable
class Logger(Protocol):
    """Takes what a run found to where experiments are compared. Constructor: own options; it writes nothing.

    Called once per run: `begin`, then `curve`, `metrics` and `artefact` as often as there is something, then
    `end`. A run of the same name that is there already is replaced. No text has a key in it.
    """

    def begin(self, run: Path, settings: Mapping[str, str]) -> None:
        """Begin with a run, whose folder's name is its own; settings by dotted key."""
        ...

    def curve(self, model: str, step: int, values: Mapping[str, float]) -> None:
        """What was measured in one epoch of a model such as `llm/seed-0`."""
        ...

    def metrics(self, model: str, values: Mapping[str, float]) -> None:
        """The results of a row of the table on test samples, means over seeds, such as `HR@20`."""
        ...

    def artefact(self, name: str, content: Path) -> None:
        """A file to keep, such as `export/onnx/model.onnx`."""
        ...

    def end(self) -> str:
        """Finish; returns in one line where it is to be seen."""
        ...


class TensorBoard:
    """Writes event files, `tensorboard --logdir FOLDER` shows them.

    Args:
        folder: has a folder for every run; by default `tensorboard` in the run's folder.
    """

    lacks = {"artefacts": "TensorBoard keeps no files"}

    def __init__(self, *, folder: str | None = None) -> None:
        self.folder = folder
        self._writers: dict[str, Any] = {}

    def begin(self, run: Path, settings: Mapping[str, str]) -> None:
        """Begin with a run; what is there of it is replaced in the end."""
        base = run / "tensorboard" if self.folder is None else Path(self.folder).expanduser()
        self._final = base / run.resolve().name
        self._new = self._final.with_name(f".{self._final.name}.tmp")
        shutil.rmtree(self._new, ignore_errors=True)
        rows = [f"| `{key}` | {value.replace('|', chr(92) + '|')} |" for key, value in settings.items()]
        self._writer(".").add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def curve(self, model: str, step: int, values: Mapping[str, float]) -> None:
        """Scalars of an epoch, below `train`."""
        for name, value in values.items():
            self._writer(model).add_scalar(f"train/{name}", value, step)

    def metrics(self, model: str, values: Mapping[str, float]) -> None:
        """Scalars of the test, below `test`, at step 0."""
        for name, value in values.items():
            self._writer(model).add_scalar(f"test/{name}", value, 0)

    def artefact(self, name: str, content: Path) -> None:
        """Nothing: TensorBoard keeps no files."""

    def end(self) -> str:
        """Put the event files in place."""
        with explained(self._final):
            for writer in self._writers.values():
                writer.close()
                (events,) = Path(writer.log_dir).glob("events.*")
                events.rename(events.with_name(EVENTS))
            self._writers.clear()
            replace_folder(self._new, self._final)
        return f"tensorboard --logdir {self._final.parent}"

    def _writer(self, model: str) -> Any:
        if model not in self._writers:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise installation.not_installed("TensorBoard", "tensorboard") from None
            with explained(self._final):
                self._writers[model] = SummaryWriter(str(self._new / model))
        return self._writers[model]
