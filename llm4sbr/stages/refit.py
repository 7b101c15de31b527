"""`refit`: trains the chosen model once more on all sessions, for serving.

The newest sessions are the most informative about the near future, but they are held out for validation and
test. Once the number of epochs is known, a model with the same settings is trained for that long on all
sessions. Nothing is left to test it on, so it never appears in the table, and its record has the metrics of
the tested model, under `chosen`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm4sbr import folders, stamps, store
from llm4sbr.config import Config
from llm4sbr.data.prepared import load
from llm4sbr.data.whole import whole
from llm4sbr.errors import InputError
from llm4sbr.fusion.saved import RECORD
from llm4sbr.progress import Progress
from llm4sbr.stages.train import TrainingJob, train_job
from llm4sbr.training.counting import weights_of
from llm4sbr.training.trained import Trained, better_baseline, chosen_model, refit_stamp, refitted_folder


def refit(
    run: Path,
    config: Config,
    progress: Progress,
    *,
    variant: str | None = None,
    seed: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write `final/<variant>/seed-<k>/` with the refitted model; resumes an interrupted attempt.

    Args:
        run: has `train`, up to date with `config`.
        config: all settings.
        progress: shows the training.
        variant: which of the trained models; by default the best of them on validation.
        seed: which seed; by default the best on validation.
        force: train again even if the refitted model is there.

    Returns:
        The model's record.

    Raises:
        InputError: there is no such variant or seed.
        TrainingError, StoreError: as `train`.
    """
    trained = chosen_model(run, variant=variant, seed=seed)
    folder, chosen = refitted_folder(run, trained), _chosen(run, trained)
    stamp = refit_stamp(trained)
    with folders.locked(run, what="run"):
        if stamps.whole(folder, stamp) and not force:
            progress.note(f"refit: fresh, {folder}")
        else:
            _train(run, folder, config, trained, chosen, stamp, progress)
    if variant is None and (best := better_baseline(run)):
        progress.note(
            f"refit: recommend and export take {best}, which is better on validation; --variant "
            f"{trained.variant} takes the refit"
        )
    record: dict[str, Any] = store.read_json(folder / RECORD)
    return record


def _train(
    run: Path,
    folder: Path,
    config: Config,
    trained: Trained,
    chosen: dict[str, Any],
    stamp: stamps.Stamp,
    progress: Progress,
) -> None:
    samples = len(whole(load(run / "prepare")).samples["train"].key)
    name = f"{trained.variant}, seed {trained.seed}"
    progress.note(f"refit: {name}, {chosen['epochs']} epochs on all sessions, {samples:,} samples")
    stamps.begin_part(folder, stamp)
    job = TrainingJob(run, folder, config, trained.variant, trained.seed, chosen)
    with progress.task("refit", chosen["epochs"] * samples, unit="samples") as advance:
        progress.note(f"refit: {name}: {train_job(job, advance)}")


def _chosen(run: Path, trained: Trained) -> dict[str, Any]:
    """Of the tested model: sha256 of its weights, number of epochs until its best one, and its metrics."""
    record = store.read_json(trained.folder / RECORD)
    facts = record["facts"]
    if "stopped" in facts:
        raise InputError(f"{trained.folder}: its training stopped ({facts['stopped']}); train it again first")
    metrics = run / "evaluate" / "metrics.json"
    rows = store.read_json(metrics)["rows"] if metrics.exists() else []
    tested = {row["name"]: {name: one["mean"] for name, one in row["metrics"].items()} for row in rows}
    return {
        "weights": record["weights"],
        "epochs": len(facts["rates"]),
        "counted": weights_of(facts),
        "rates": facts["rates"],
        "selected_on": facts["selected_on"],
        "valid": facts["valid"],
        "test": tested.get(trained.variant, {}),
        "about": "figures of the model that was tested; the test's are means over seeds",
    }
