"""Writes `report.html` of a run or an experiment, as one self-contained file.

Templates escape everything, figures are inline SVG, and there are no scripts: titles and answers are
untrusted text, and the page's content security policy forbids running or loading anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from llm4sbr import registry, store
from llm4sbr.printable import LINE, short
from llm4sbr.report import REPORT
from llm4sbr.report.page.experiment import RECORD, experiment_page
from llm4sbr.report.page.run import run_page
from llm4sbr.report.page.tuning import tuning_page
from llm4sbr.report.tuning import FOLDER


def write(folder: Path) -> Path:
    """Write the report of a folder, which is a run or an experiment, and return its path."""
    return write_experiment(folder) if (folder / RECORD).exists() else write_run(folder)


def write_run(run: Path) -> Path:
    """Write `report.html` into a run directory and return it.

    Parts that the run does not have are left out, and the page names them.

    Raises:
        StoreError: the folder is not a run, or cannot be written.
    """
    return _write(run / REPORT, "run.html.j2", run_page(run))


def write_experiment(folder: Path) -> Path:
    """Write `report.html` next to an `experiment.json` and return its path.

    Raises:
        StoreError: the folder has no such file or it is damaged, or the report cannot be written.
    """
    return _write(folder / REPORT, "experiment.html.j2", experiment_page(folder))


def write_tuning(run: Path) -> Path:
    """Write `report.html` of a search next to its `tune.json` and return its path.

    Raises:
        StoreError: there is no such file or it is damaged, or the report cannot be written.
    """
    return _write(run / FOLDER / REPORT, "tuning.html.j2", tuning_page(run, run / FOLDER))


def environment() -> Environment:
    """The Jinja environment of the page's templates, which escapes all values."""
    return Environment(
        loader=PackageLoader("llm4sbr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: short(value, LINE) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _write(path: Path, template: str, page: Mapping[str, Any]) -> Path:
    made = f"llm4sbr {registry.core_version()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    text = environment().get_template(template).render(made=made, **page)
    # JSON can contain half of a surrogate pair, which UTF-8 cannot represent.
    store.write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    return path
