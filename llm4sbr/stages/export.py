"""Stage `export`: exports a trained model as artefacts for production, each verified against it.

An artefact is written into a `.tmp` folder, which is renamed when it is complete and verified.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr import folders, registry, store
from llm4sbr.errors import DeviceError, ExportError, InputError, StoreError
from llm4sbr.exporting import Exporter, ExportSpec, Scorer
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.exporting.verification import verify
from llm4sbr.fusion.model import Recipe
from llm4sbr.progress import Progress
from llm4sbr.report import card
from llm4sbr.serving.artefact import FORMAT, RECORD
from llm4sbr.serving.attributes import ATTRIBUTES, Attributes
from llm4sbr.serving.filters import Filters
from llm4sbr.serving.items import ITEMS, write_items
from llm4sbr.serving.names import LARGE, NAMES, write_names
from llm4sbr.serving.newcomers import attributes_of
from llm4sbr.serving.predicted import write_titles
from llm4sbr.serving.titles import TitleIndex
from llm4sbr.stages.catalogue import bring_in
from llm4sbr.training.trained import reason

SUMMARY = "export.json"
"""File next to the artefacts' folders: what was exported, and how it was verified."""

SUMMARIZED = ("kind", "variant", "precision", "k", "fingerprint", "trained", "verified", "versions")
"""Fields of an artefact's record that `SUMMARY` repeats."""

PACKAGES = ["llm4sbr", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu12"]


@dataclass(frozen=True)
class Export:
    """What to export."""

    formats: tuple[str, ...] = ("onnx",)
    """Installed names of kind `exporters`."""
    precisions: tuple[str, ...] = ()
    """Each precision makes its own artefact; by default the format's preferred one."""
    k: int = 20
    """Length of the lists."""
    variant: str | None = None
    """Which trained model; by default as `recommend` chooses."""
    seed: int | None = None
    intents: str | None = None
    """Intents of a fused model: `input`, `predictor` or `none`; by default predicted, if the model can."""
    refitted: bool | None = None
    """Whether to export the model refitted on all sessions; by default if there is one."""
    provider: str = "auto"
    """Execution provider for the verification; `auto` also allows the CPU."""
    max_batch: int = 64
    """Maximum number of sessions per request, for formats that need it."""
    recall: float = 0.99
    """Least recall@k of an index, on test sessions."""
    attributes: tuple[str, ...] | None = None
    """Attributes of the items that artefacts carry, for filters and answers; by default all."""
    filters: Mapping[str, Path] = field(default_factory=dict)
    """Named filters: name -> file with the keys of the items that pass, one per line."""
    options: Mapping[str, Any] | None = None
    """Further options of the exporters."""


class ExportJob(NamedTuple):
    """One artefact to make."""

    folder: Path
    kind: str
    precision: str


def export(run: Path, wanted: Export, progress: Progress) -> dict[str, Any]:
    """Write `export/<artefact>/` for every format and precision, and `export/export.json`.

    Args:
        run: has `prepare` and `train` and, for a model with intents, `localize`.
        wanted: what to export.
        progress: shows the samples verified.

    Returns:
        The records of the artefacts written now, by name.

    Raises:
        ExportError: an artefact does not answer as the trained model, nothing of it is left; or a component
            of the model says that it cannot be exported.
        DeviceError: a format needs a device that is not here; the others have been exported.
        InputError, StoreError, RegistryError: as their texts say; another process may be at work on the run.
    """
    original = ReferenceModel.of(
        run, variant=wanted.variant, seed=wanted.seed, intents=wanted.intents, refitted=wanted.refitted
    )
    if "baseline" not in original.saved.facts:
        _check_exportable(original.saved.recipe)
    progress.note(f"export: {reason(run, original.trained)}")
    jobs = [
        ExportJob(run / "export" / artefact_name(kind, precision, wanted), kind, precision)
        for kind in wanted.formats
        for precision in _precisions(kind, wanted)
    ]
    if not jobs:
        raise InputError("no format to export to is named; --format onnx")
    with folders.locked(run, what="run"):  # two exports would write into the same folders
        return _written(jobs, original, wanted, progress)


def _written(
    jobs: Sequence[ExportJob], original: ReferenceModel, wanted: Export, progress: Progress
) -> dict[str, Any]:
    """Records of the jobs' artefacts, by name, once all are done."""
    _summary(jobs[0].folder.with_name(SUMMARY))  # check it before the work, not after
    attributes = _attributes(original, wanted, progress)
    done: dict[str, Any] = {}
    missing: list[DeviceError] = []
    for job in jobs:
        refitted = ", refitted on all sessions" if original.trained.refitted else ""
        progress.note(
            f"export: {job.folder.name}: {original.trained.variant} model{refitted}, {original.intent_mode}"
        )
        try:
            record = _artefact(job, original, wanted, attributes, progress)
            shown = {key: record[key] for key in SUMMARIZED}
        except DeviceError as error:
            missing.append(error)
            record = shown = {"kind": job.kind, "precision": job.precision, "not_built": str(error)}
        done[job.folder.name] = record
        _summarize(job.folder, shown)
    made = [job.folder for job in jobs if (job.folder / RECORD).exists()]
    if why := bring_in(jobs[0].folder.parents[1], made):
        progress.note(f"export: without new items: {why}")
    if missing:
        raise missing[0]
    return done


def _check_exportable(recipe: Recipe) -> None:
    for kind, name in recipe.components():
        reason = getattr(registry.load(kind, name), "lacks", {}).get("export")
        if reason:
            raise ExportError(f"the {kind[:-1]} {name!r} cannot be exported: {reason}")


def artefact_name(kind: str, precision: str, wanted: Export) -> str:
    """Name of the artefact: `onnx`, `onnx-int8`, `onnx-plain-predictor-int8`."""
    rounded = precision if precision != "fp32" else None
    return "-".join(part for part in (kind, wanted.variant, wanted.intents, rounded) if part)


def _precisions(name: str, wanted: Export) -> tuple[str, ...]:
    offered: tuple[str, ...] = registry.load("exporters", name).precisions  # type: ignore[attr-defined]
    for precision in wanted.precisions:
        if precision not in offered:
            raise InputError(f"exporter {name}: no precision {precision!r}; it has {', '.join(offered)}")
    return wanted.precisions or offered[:1]


def _attributes(original: ReferenceModel, wanted: Export, progress: Progress) -> Attributes:
    """What artefacts tell of their items, with the named filters."""
    found = attributes_of(original.prepared)
    if wanted.attributes is not None:
        found = found.chosen(wanted.attributes)
    filters = Filters(TitleIndex(original.prepared.catalogue), found)
    for name, path in wanted.filters.items():
        unknown = filters.define(name, path)
        if unknown:
            progress.note(f"export: filter {name}: no item has {unknown:,} of the keys in {path}")
    return Attributes(found.columns, found.clicks, filters.named)


def _artefact(
    job: ExportJob, original: ReferenceModel, wanted: Export, attributes: Attributes, progress: Progress
) -> dict[str, Any]:
    """Write and verify one artefact; its record."""
    options = wanted.options or {}
    exporter: Exporter = registry.create("exporters", job.kind, provider=wanted.provider, **options)
    spec, catalogue = _spec(original, job.precision, wanted), original.prepared.catalogue
    with _folder(job.folder) as fresh:
        path = fresh / f"model{exporter.suffix}"
        exporter.export(original.saved.model, original.example(), path, spec=spec)
        verified = _verified(exporter.load(path), original, spec, job.folder.name, progress)
        write_items(fresh / ITEMS, catalogue)
        if catalogue.size >= LARGE:
            write_names(fresh / NAMES, catalogue)
        attributes.write(fresh / ATTRIBUTES)
        if job.kind == "onnx" and original.texts is not None:
            write_titles(fresh, original.texts.numpy())
        if original.trained.refitted:  # its training data includes the test samples
            del verified["metrics"]
        record = _record(fresh, job.kind, original=original, spec=spec, verified=verified)
        if original.trained.refitted:
            record["chosen"] = original.saved.facts["chosen"]
        if warm := original.saved.facts.get("warm"):
            record["warm"] = warm
        store.write_record(fresh / RECORD, record)
        facts, recipe = original.saved.facts, original.saved.recipe
        asked = {"llm": facts.get("llm") or "none", "backbone": facts.get("baseline", recipe.backbone)}
        store.write_text(fresh / card.NAME, card.card(job.folder.parents[1], record, **asked))
    return record


@contextmanager
def _folder(final: Path) -> Iterator[Path]:
    """A folder that is renamed to `final` if the block succeeds, and deleted if it fails.

    Where a device is missing, what was written stays, for the machine that has one; it has no record.
    """
    fresh = final.with_name(final.name + ".tmp")
    folders.mend_folder(final)
    with store.explained(final):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
    try:
        with store.explained(final, only_full=True):
            yield fresh
        folders.replace_folder(fresh, final)
    except DeviceError as error:
        folders.replace_folder(fresh, final)
        raise DeviceError(f"{final}: {error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _spec(original: ReferenceModel, precision: str, wanted: Export) -> ExportSpec:
    recipe = original.saved.recipe
    about = {
        "fingerprint": original.fingerprint,
        "catalogue": original.saved.catalogue,
        "variant": original.intent_mode,
        "precision": precision,
        "k": str(wanted.k),
        "num_items": str(recipe.num_items),
        "max_length": str(original.longest),
        "perspectives": ",".join(recipe.perspectives),
        "text_dim": str(recipe.text_dim),
        "trained": f"{original.trained.variant}/seed-{original.trained.seed}",
        "llm4sbr": registry.core_version(),
    }
    return ExportSpec(
        wanted.k, original.intent_mode, precision, wanted.max_batch, original.longest, about, wanted.recall
    )


def _verified(
    scorer: Scorer, original: ReferenceModel, spec: ExportSpec, label: str, progress: Progress
) -> dict[str, Any]:
    with progress.task(f"verify {label}", len(original.test.key), unit="samples") as advance:
        try:
            return verify(
                scorer,
                original.reference(),
                sessions=original.prepared.sessions,
                samples=original.test,
                k=spec.k,
                exact=spec.precision == "fp32",
                recall=spec.recall if spec.precision == "index" else None,
                exclude=not original.prepared.repeats,
                max_batch=spec.max_batch,
                advance=advance,
            )
        except ExportError as error:
            raise ExportError(f"{label}: {error}; nothing was kept") from None


def _record(
    folder: Path, kind: str, *, original: ReferenceModel, spec: ExportSpec, verified: Mapping[str, Any]
) -> dict[str, Any]:
    recipe = original.saved.recipe
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    inputs = {
        "items": {"dtype": "int64", "shape": ["batch", "length"]},
        "mask": {"dtype": "bool", "shape": ["batch", "length"]},
        "exclude_seen": {"dtype": "bool", "shape": ["batch", 1]},
    }
    if original.intent_mode == "intents":
        shape = ["batch", len(recipe.perspectives), recipe.text_dim]
        inputs["intents"] = {"dtype": "float32", "shape": shape}
    if spec.precision == "index":
        del inputs["exclude_seen"]
    outputs: dict[str, Any] = {
        "item_ids": {"dtype": "int64", "shape": ["batch", spec.k]},
        "scores": {"dtype": "float32", "shape": ["batch", spec.k]},
    }
    if spec.precision == "index":
        outputs = {"query": {"dtype": "float32", "shape": ["batch", "query"]}}
    if original.intent_mode == "predictor" and kind == "onnx":
        shape = ["batch", len(recipe.perspectives), recipe.text_dim]
        outputs["intents"] = {"dtype": "float32", "shape": shape}
    if kind == "onnx" and spec.precision != "index" and hasattr(original.saved.model.fuser, "factors"):
        outputs["session_query"] = {"dtype": "float32", "shape": ["batch", "query"]}
    return {
        "format": FORMAT,
        "kind": kind,
        "variant": original.intent_mode,
        "precision": spec.precision,
        "inputs": inputs,
        "outputs": outputs,
        "source": original.saved.model.own_source,
        "perspectives": list(recipe.perspectives),
        "text_dim": recipe.text_dim,
        "num_items": recipe.num_items,
        "k": spec.k,
        "max_length": spec.max_length,
        "exclude_seen": not original.prepared.repeats,
        "catalogue": original.saved.catalogue,
        "fingerprint": spec.about["fingerprint"],
        "trained": spec.about["trained"],
        "refitted": original.trained.refitted,
        "files": {path.relative_to(folder).as_posix(): store.file_sha256(path) for path in files},
        "verified": dict(verified),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _summarize(folder: Path, shown: Mapping[str, Any]) -> None:
    path = folder.with_name(SUMMARY)
    there = {name: one for name, one in _summary(path).items() if folder.with_name(name).is_dir()}
    store.write_record(path, there | {folder.name: shown})


def _summary(path: Path) -> dict[str, Any]:
    known = store.read_record(path, "delete it and export again") if path.exists() else {}
    if not isinstance(known, dict):
        raise StoreError(f"{path}: not written by export; delete it and export again")
    return known
