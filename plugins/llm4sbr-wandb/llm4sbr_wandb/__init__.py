"""The logger `wandb`: an offline run of Weights & Biases, which sends nothing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Wandb"]

PRIVATE = {"console": "off", "silent": True, "save_code": False, "disable_git": True, "host": "none"}
PRIVATE |= {"x_disable_stats": True, "x_disable_meta": True, "api_key": None, "disable_job_creation": True}
"""Settings with which neither the machine nor its user is recorded."""


class Wandb:
    """Writes an offline run, which `wandb sync` sends.

    Args:
        folder: for all runs.
        project: the name of the project.
    """

    plugin_api = 1

    def __init__(self, *, folder: str = "wandb-offline", project: str = "llm4sbr") -> None:
        self.folder, self.project = Path(folder), project

    def begin(self, run: Path, settings: Mapping[str, str]) -> None:
        """Begin an offline run with the settings as its configuration; an older one goes at the end."""
        import wandb

        name = run.resolve().name
        self._id = hashlib.sha256(name.encode()).hexdigest()[:16]
        self._old = [*self.folder.glob(f"wandb/offline-run-*-{self._id}")]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            mode="offline",
            dir=str(self.folder),
            project=self.project,
            name=name,
            id=self._id,
            config=dict(settings),
            reinit="create_new",
            settings=wandb.Settings(**PRIVATE),
        )

    def curve(self, model: str, step: int, values: Mapping[str, float]) -> None:
        """Metrics `train/MODEL/...` of an epoch."""
        self._run.log({f"train/{model}/{key}": value for key, value in values.items()} | {"epoch": step})

    def metrics(self, model: str, values: Mapping[str, float]) -> None:
        """Results `test/ROW/...` in the summary."""
        self._run.summary.update({f"test/{model}/{key}": value for key, value in values.items()})

    def artefact(self, name: str, content: Path) -> None:
        """A file of the run."""
        target = Path(self._run.dir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(content, target)

    def end(self) -> str:
        """Finish the run."""
        place = Path(self._run.dir).parent
        self._run.finish()
        for old in self._old:
            if old.resolve() != place.resolve():
                shutil.rmtree(old)
        return f"wandb sync {place}"
