"""The logger `mlflow`: settings, curves, results and files of a run as an MLflow run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from llm4sbr.errors import InputError

__all__ = ["Mlflow", "safe"]

TAG = "llm4sbr.run"
"""Tag with the name of the run's folder."""

BATCH = 1000
"""Metrics that MLflow takes at once; a hundred settings."""

LONGEST = 500
"""Characters of a setting that every version of MLflow takes."""


class Mlflow:
    """Tells an MLflow tracking server, or a SQLite file, what runs found.

    Args:
        uri: of the server or `sqlite:///FILE`; by default MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`.
        experiment: its name.
        artefacts: folder for files, used when the experiment is made; by default beside a SQLite file.
    """

    plugin_api = 1

    def __init__(
        self, *, uri: str | None = None, experiment: str = "llm4sbr", artefacts: str | None = None
    ) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        if urlsplit(self.uri).password:
            raise InputError("uri: has a password in it; put it into MLFLOW_TRACKING_PASSWORD")
        self.experiment, self.artefacts = experiment, artefacts

    def begin(self, run: Path, settings: Mapping[str, str]) -> None:
        """Begin a new MLflow run with the settings as its parameters."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=self.uri)
        self._name, self._metrics = run.resolve().name, list[Any]()
        self._id = self._experiment()
        self._run = self._client.create_run(self._id, run_name=self._name, tags={TAG: self._name}).info.run_id
        params = [Param(safe(key), value[:LONGEST]) for key, value in settings.items()]
        for start in range(0, len(params), BATCH // 10):
            self._client.log_batch(self._run, params=params[start : start + BATCH // 10])

    def curve(self, model: str, step: int, values: Mapping[str, float]) -> None:
        """Metrics `train/MODEL/...` of an epoch."""
        self._add(f"train/{model}", step, values)

    def metrics(self, model: str, values: Mapping[str, float]) -> None:
        """Metrics `test/ROW/...`."""
        self._add(f"test/{model}", 0, values)

    def artefact(self, name: str, content: Path) -> None:
        """A file, by MLflow's own means."""
        folder = PurePosixPath(name).parent.as_posix()
        self._client.log_artifact(self._run, str(content), None if folder == "." else folder)

    def end(self) -> str:
        """Send what is left, finish the run, and delete those before it."""
        self._send()
        self._client.set_terminated(self._run)
        for old in self._client.search_runs([self._id], filter_string=f"tags.`{TAG}` = '{self._quoted()}'"):
            if old.info.run_id != self._run:
                self._client.delete_run(old.info.run_id)
        server = self.uri.startswith(("http:", "https:"))
        return f"{self.uri}, run {self._run}" if server else f"mlflow ui --backend-store-uri {self.uri}"

    def _quoted(self) -> str:
        return self._name.replace("'", "\\'")

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        place = None if self.artefacts is None else Path(self.artefacts)
        if place is None and self.uri.startswith("sqlite:///"):
            place = Path(self.uri.removeprefix("sqlite:///")).with_name("mlartifacts")
        location = None if place is None else place.expanduser().absolute().as_uri()
        return str(self._client.create_experiment(self.experiment, artifact_location=location))

    def _add(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._metrics += [Metric(safe(f"{prefix}/{key}"), value, now, step) for key, value in values.items()]
        if len(self._metrics) >= BATCH // 2:
            self._send()

    def _send(self) -> None:
        for start in range(0, len(self._metrics), BATCH):
            self._client.log_batch(self._run, metrics=self._metrics[start : start + BATCH])
        self._metrics.clear()


def safe(name: str) -> str:
    """A name as MLflow allows it: `HR@20` is `HR_at_20`, and what else is not allowed is `_`."""
    named = name.replace("@", "_at_")
    return "".join(one if one.isalnum() or one in "_-. /" else "_" for one in named)
