"""What the command line does, in a few typed lines of Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm4sbr import pipeline, store
from llm4sbr.config import in_force, merge, nest
from llm4sbr.progress import Progress
from llm4sbr.report import REPORT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm4sbr.asking.plan import Plan
    from llm4sbr.config import Config
    from llm4sbr.serving.recommend import Recommender


def run(
    folder: str | Path,
    *,
    until: str = "evaluate",
    force: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Bring a run up to date and return what its last stage found.

    Args:
        folder: the run directory.
        until: last stage to run.
        force: do that stage again even if nothing has changed.
        quiet: say nothing while running.
        **settings: sections of the configuration as dictionaries (`train={"dim": 64}`) or dotted keys
            (`**{"train.dim": 64}`).

    Returns:
        The content of the stage's JSON summary; for `evaluate` that is `metrics.json` and
        where the `report` is.
    """
    chosen = merge(*(nest({key: value}) for key, value in settings.items()))
    run = Path(folder).expanduser()
    pipeline.execute(run, chosen, until=until, progress=Progress(quiet=quiet), force=force)
    return summary(run, until)


def load(folder: str | Path, **options: Any) -> Recommender:
    """A finished run, ready to recommend; options are those of `Recommender.load`."""
    from llm4sbr.serving.recommend import Recommender

    return Recommender.load(Path(folder).expanduser(), **options)


def plan(folder: str | Path, *, quiet: bool = True) -> Plan | None:
    """What `infer` of a prepared run would ask, and what it takes; None where no LLM is asked."""
    from llm4sbr.asking.questions import plan_run

    _, config = in_force.configure(Path(folder).expanduser(), {})
    return plan_run(Path(folder).expanduser(), config, Progress(quiet=quiet))


def settings(folder: str | Path | None = None) -> Config:
    """Every setting in force in a run, or the defaults."""
    return in_force.configure(None if folder is None else Path(folder).expanduser(), {})[1]


def export(
    folder: str | Path, formats: Sequence[str] = ("onnx",), *, quiet: bool = True, **options: Any
) -> dict[str, Any]:
    """Export a trained model of a run, verified, into its folder `export`.

    Args:
        folder: the run directory.
        formats: installed names of kind `exporters`.
        quiet: say nothing while verifying.
        **options: fields of `llm4sbr.stages.export.Export`: `k`, `precisions`, `intents`, `variant` ...

    Returns:
        The record of each artefact, by the name of its folder.
    """
    from llm4sbr.stages.export import Export
    from llm4sbr.stages.export import export as export_run

    wanted = Export(formats=tuple(formats), **options)
    return export_run(Path(folder).expanduser(), wanted, Progress(quiet=quiet))


def serve(folder: str | Path, **options: Any) -> None:
    """Answer sessions over HTTP, from a run that is exported or from an export folder, until SIGTERM.

    Args:
        folder: the run directory or the export folder.
        **options: fields of `llm4sbr.serving.server.settings.Settings`: `host`, `port`, `max_batch` ...
    """
    from llm4sbr.serving.server.run import serve as serve_folder
    from llm4sbr.serving.server.settings import Settings

    serve_folder(Path(folder).expanduser(), Settings(**options))


def write_report(folder: str | Path) -> Path:
    """Write `report.html` of a run or an experiment anew, and return where it is."""
    from llm4sbr.report.page.write import write

    return write(Path(folder).expanduser())


def experiment(
    kind: str,
    folder: str | Path,
    datasets: Mapping[str, str | Path],
    *,
    jobs: int = 1,
    quiet: bool = True,
    axes: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run one of the paper's experiments, one run directory per cell.

    Args:
        kind: `table2`, `ablation`, `localization` or `memory`.
        folder: of the experiment; the same call goes on where an interrupted one stopped.
        datasets: a reader's name -> where its data is; a name of your own -> `reader:path`.
        jobs: cells trained side by side.
        quiet: say nothing while running.
        axes: fields of `llm4sbr.experiments.grid.Request`: `protocols`, `backbones`, `f`, `perspectives`.
        **settings: of every cell, as for `run`.

    Returns:
        The content of `experiment.json`.
    """
    from llm4sbr.experiments.grid import Dataset, Request
    from llm4sbr.experiments.runner import run_experiment

    named = [Dataset.parse(f"{name}={place}") for name, place in datasets.items()]
    chosen = merge(*(nest({key: value}) for key, value in settings.items()))
    request = Request(kind, named, settings=chosen, **(axes or {}))
    return run_experiment(Path(folder).expanduser(), request, jobs=jobs, progress=Progress(quiet=quiet))


SUMMARIES = {
    "prepare": "stats.json",
    "infer": "infer.json",
    "localize": "localize.json",
    "evaluate": "metrics.json",
}
"""The JSON file in which a stage says what it found; `train` says it per model."""


def summary(run: Path, stage: str) -> dict[str, Any]:
    """What a finished stage found."""
    if stage == "train":
        models = sorted((run / stage).glob("*/seed-*/model.json"))
        return {"models": [store.read_json(path) for path in models]}
    found: dict[str, Any] = store.read_json(run / stage / SUMMARIES[stage])
    if stage == "evaluate" and (run / REPORT).exists():
        found["report"] = str(run / REPORT)
    return found
