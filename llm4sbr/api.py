"""The Python interface: what the command line does, as functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm4sbr import pipeline, store
from llm4sbr.config import in_force, merge, nest
from llm4sbr.progress import Progress
from llm4sbr.report import REPORT
from llm4sbr.report.changes import RECORD
from llm4sbr.stamps import SECTIONS

if TYPE_CHECKING:
    from llm4sbr.asking.plan import Plan
    from llm4sbr.config import Config
    from llm4sbr.report.summary import Summary
    from llm4sbr.serving.recommend import Recommender


def run(
    folder: str | Path,
    *,
    until: str = "evaluate",
    force: bool = False,
    quiet: bool = True,
    start: str | Path | None = None,
    **settings: Any,
) -> Summary:
    """Bring a run up to date and return the result of its last stage.

    Args:
        folder: the run folder.
        until: last stage to run.
        force: run that stage again even if it is fresh.
        quiet: print no progress.
        start: an older run whose models this one's start from, see `llm4sbr.pipeline.execute`.
        **settings: sections of the configuration as dictionaries (`train={"dim": 64}`) or dotted keys
            (`**{"train.dim": 64}`).

    Returns:
        The content of the stage's JSON summary; for `evaluate` that is `metrics.json`, the `changes`
        by the LLM's intents if there is an LLM, and the path of the `report`. Its `frame()` and
        `to_pandas()` are the table as data frames, see `llm4sbr.report.summary.Summary`.
    """
    chosen = merge(*(nest({key: value}) for key, value in settings.items()))
    run = Path(folder).expanduser()
    progress = Progress(quiet=quiet)
    pipeline.execute(run, chosen, until=until, progress=progress, force=force, start=start)
    return summary(run, until)


def load(folder: str | Path, **options: Any) -> Recommender:
    """Open a finished run to recommend from; options are those of `Recommender.load`."""
    from llm4sbr.serving.recommend import Recommender

    return Recommender.load(Path(folder).expanduser(), **options)


def plan(folder: str | Path, *, quiet: bool = True, **settings: Any) -> Plan | None:
    """What `infer` would ask, and the estimated cost; None if no LLM is used.

    Args:
        folder: the run folder; `prepare` is brought up to date first.
        quiet: print no progress.
        **settings: as those of `run`. Only those that `prepare` reads are kept in the run, so that the costs
            of two LLMs can be compared without choosing one.
    """
    from llm4sbr.asking.questions import plan_run

    run, progress = Path(folder).expanduser(), Progress(quiet=quiet)
    chosen = merge(*(nest({key: value}) for key, value in settings.items()))
    config = pipeline.tried(run, chosen)
    of_data = {key: value for key, value in chosen.items() if SECTIONS.get(key) == "prepare"}
    new = bool(chosen.get("data", {}).keys() & {"reader", "path"})
    pipeline.execute(run, of_data, until="prepare", progress=progress, new=new)
    return plan_run(run, config, progress)


def plan_baselines(folder: str | Path, *, quiet: bool = True) -> dict[str, Plan]:
    """What the baselines that ask an LLM would ask in `evaluate` of a prepared run, by name."""
    from llm4sbr.asking import baselines

    config = in_force.configure(Path(folder).expanduser())
    return baselines.plan_baselines(Path(folder).expanduser(), config, Progress(quiet=quiet))


def settings(folder: str | Path | None = None) -> Config:
    """All settings in use in a run, or the defaults."""
    return in_force.configure(None if folder is None else Path(folder).expanduser())


def refit(
    folder: str | Path,
    *,
    variant: str | None = None,
    seed: int | None = None,
    force: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train a run's chosen model once more, on all sessions, for what is served; the record of its refit.

    Args:
        folder: the run directory; `train` is brought up to date first.
        variant: which of its trained models; by default the best of them on validation.
        seed: which seed; by default the best on validation.
        force: train again even if the refit is there.
        quiet: say nothing while training.
    """
    from llm4sbr.stages.refit import refit as refit_model
    from llm4sbr.training.trained import trained_models

    run, progress = Path(folder).expanduser(), Progress(quiet=quiet)
    trained_models(run)  # a refit begins no run
    config = pipeline.execute(run, {}, until="train", progress=progress)
    return refit_model(run, config, progress, variant=variant, seed=seed, force=force)


def update(
    folder: str | Path,
    *,
    serve: str | Path | None = None,
    refitted: bool = False,
    tolerance: float = 0.02,
    newest: float = 86_400.0,
    quiet: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Train a run again on its log as it is now, and hand the model over if it is not worse.

    Args:
        folder: the run directory.
        serve: the folder that a server watches; by default the run's own export.
        refitted: hand over a refit on all sessions, the newest included.
        tolerance: how much lower the new model's HR@K and MRR@K may be, relative to the old one's.
        newest: seconds before the last click in which the sessions that are compared on began.
        quiet: print no progress.
        **settings: changes of the run's settings, as for `run`.

    Returns:
        `handed_over`; `gate` with both models' metrics; the folders `run`, `served` and `before`, or
        `refused`.
    """
    from llm4sbr.updating.work import update as update_run

    chosen = merge(*(nest({key: value}) for key, value in settings.items()))
    run, target = Path(folder).expanduser(), None if serve is None else Path(serve).expanduser()
    progress = Progress(quiet=quiet)
    options: dict[str, Any] = {"refitted": refitted, "tolerance": tolerance, "newest": newest}
    return update_run(run, chosen, progress=progress, serve=target, **options)


def add_items(
    folder: str | Path, items: str | Path, *, variant: str | None = None, quiet: bool = True
) -> dict[str, Any]:
    """Add items that nobody clicked to a run's exported models, or to one; what was added and taken out.

    Args:
        folder: a run, or the folder of an exported model.
        items: to a run, a CSV with item, title and attributes; to an export, the file that this made,
            `RUN/catalogue/added.safetensors`.
        variant: which trained model of a run; by default the one that `export` takes.
        quiet: print no progress.
    """
    from llm4sbr.stages.catalogue import add

    place, table = Path(folder).expanduser(), Path(items).expanduser()
    return add(place, table, Progress(quiet=quiet), variant=variant)


def remove_items(folder: str | Path, keys: Sequence[str]) -> dict[str, Any]:
    """Take items out of the lists of a run's exported models, or of one; as `add_items`."""
    from llm4sbr.stages.catalogue import remove

    return remove(Path(folder).expanduser(), keys)


def changed_items(folder: str | Path) -> dict[str, Any]:
    """What was added to a run or an exported model and taken out; as `add_items`."""
    from llm4sbr.stages.catalogue import listed

    return listed(Path(folder).expanduser())


def tune(
    folder: str | Path,
    *,
    trials: int = 40,
    seconds: float | None = None,
    space: Sequence[str] = (),
    quiet: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Search the settings of a run's model on its validation samples.

    Args:
        folder: the run directory.
        trials: number of trials, those of earlier calls included.
        seconds: time limit, the time of earlier calls included.
        space: changes of what the components declare, as `--space` takes them.
        quiet: print no progress.
        **options: `workers`, `variant`, `keep`, `engine`, see `llm4sbr.tuning.search.tune`.

    Returns:
        The content of `tune/tune.json`, and the path of the `report`.
    """
    from llm4sbr.config.space import given
    from llm4sbr.system import installation

    installation.require("tune")
    from llm4sbr.tuning.search import tune as tune_run

    changes = given(space)
    run, progress = Path(folder).expanduser(), Progress(quiet=quiet)
    found = tune_run(run, trials=trials, seconds=seconds, changes=changes, progress=progress, **options)
    return {**found, "report": str(run / "tune" / REPORT)}


def export(
    folder: str | Path, formats: Sequence[str] = ("onnx",), *, quiet: bool = True, **options: Any
) -> dict[str, Any]:
    """Export a trained model of a run into its folder `export`, and verify it.

    Args:
        folder: the run folder.
        formats: names of installed `exporters`.
        quiet: print no progress.
        **options: fields of `llm4sbr.stages.export.Export`: `k`, `precisions`, `intents`, `variant` ...

    Returns:
        The record of each artefact, by the name of its folder.
    """
    from llm4sbr.stages.export import Export
    from llm4sbr.stages.export import export as export_run

    wanted = Export(formats=tuple(formats), **options)
    return export_run(Path(folder).expanduser(), wanted, Progress(quiet=quiet))


def serve(
    folder: str | Path | Mapping[str, str | Path],
    *,
    shares: Mapping[str, float] | None = None,
    shadows: Sequence[str] = (),
    filters: Mapping[str, str | Path] | None = None,
    **options: Any,
) -> None:
    """Serve recommendations over HTTP until SIGTERM, from run or export folders.

    Args:
        folder: the run folder or the export folder; of several models, name -> folder.
        shares: name -> share of the requests for recommendations; by default the first model has all.
        shadows: names of models that compute what others answer, and answer nothing.
        filters: named filters: name -> file with the keys of the items that pass, one per line.
        **options: fields of `llm4sbr.serving.server.settings.Settings`: `host`, `port`, `max_batch` ...
    """
    from llm4sbr.serving.server.run import serve as serve_folder
    from llm4sbr.serving.server.settings import Settings

    settings = Settings(**options)
    folders = folder if isinstance(folder, Mapping) else {settings.name: folder}
    paths = {name: Path(path).expanduser() for name, path in folders.items()}
    files = {name: Path(path).expanduser() for name, path in (filters or {}).items()}
    serve_folder(paths, settings, shares=shares, shadows=shadows, filters=files)


def write_report(folder: str | Path) -> Path:
    """Write `report.html` of a run or an experiment again, and return its path."""
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
    """Run one of the paper's experiments, one run folder per cell.

    Args:
        kind: `table2`, `ablation`, `localization` or `memory`.
        folder: folder of the experiment; the same call resumes an interrupted one.
        datasets: a reader's name -> path of its data; or your own name -> `reader:path`.
        jobs: number of cells trained in parallel.
        quiet: print no progress.
        axes: fields of `llm4sbr.experiments.grid.Request`: `protocols`, `backbones`, `f`, `perspectives`.
        **settings: settings for every cell, as for `run`.

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
"""The JSON file with a stage's result; `train` has one per model."""


def summary(run: Path, stage: str) -> Summary:
    """The result of a finished stage."""
    from llm4sbr.report.summary import Summary

    if stage == "train":
        from llm4sbr.training.trained import model_folders

        models = sorted(model_folders(run / stage))
        return Summary(models=[store.read_json(folder / "model.json") for folder in models])
    found = Summary(store.read_json(run / stage / SUMMARIES[stage]))
    if stage == "evaluate":
        if (changes := run / stage / RECORD).exists():
            found["changes"] = store.read_json(changes)
        if (run / REPORT).exists():
            found["report"] = str(run / REPORT)
    return found
