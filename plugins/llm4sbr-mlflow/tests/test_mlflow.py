"""The logger `mlflow` against MLflow's own store, a SQLite file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")

from llm4sbr_mlflow import Mlflow, safe

from llm4sbr.errors import InputError
from llm4sbr.testing.loggers import Kept, LoggerContract

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # a new database takes seconds


class TestMlflow(LoggerContract):
    def create(self, folder: Path) -> Mlflow:
        return Mlflow(uri=f"sqlite:///{folder}/mlflow.db" if folder.parent.exists() else None)

    def read(self, folder: Path) -> dict[str, Kept]:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        found = client.search_runs([client.get_experiment_by_name("llm4sbr").experiment_id])
        return {run.data.tags["llm4sbr.run"]: self.kept(client, run) for run in found}

    def kept(self, client, run) -> Kept:
        curves, metrics, files = {}, {}, {}
        for key in run.data.metrics:
            kind, _, rest = key.partition("/")
            model, _, name = rest.rpartition("/")
            for one in client.get_metric_history(run.info.run_id, key):
                place = metrics if kind == "test" else curves.setdefault(model, {})
                place.setdefault(model if kind == "test" else one.step, {})[name.replace("_at_", "@")] = (
                    one.value
                )
        folders = [None]
        while folders:
            for one in client.list_artifacts(run.info.run_id, folders.pop()):
                if one.is_dir:
                    folders.append(one.path)
                else:
                    path = client.download_artifacts(run.info.run_id, one.path)
                    files[one.path] = Path(path).read_bytes()
        return Kept(run.data.params, curves, metrics, files)


def test_names():
    assert safe("valid.HR@20") == "valid.HR_at_20"
    assert safe("a:b\n") == "a_b_"


def test_a_password_in_the_uri_is_refused():
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        Mlflow(uri="https://ann:geheim@host/")
    assert "geheim" not in str(caught.value)
