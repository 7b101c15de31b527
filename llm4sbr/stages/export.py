"""Stage `export`: a trained model as artefacts for production, each verified against the trained one.

An artefact's folder gets its name when it is whole and verified; until then it is called `.tmp`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr import registry, store
from llm4sbr.data.batches import Batch, collate
from llm4sbr.data.prepared import ITEMS, Prepared, catalogue_hash, load
from llm4sbr.errors import DeviceError, ExportError, InputError, StoreError
from llm4sbr.fusion.saved import RECORD as MODEL_RECORD
from llm4sbr.fusion.saved import SavedModel, load_model
from llm4sbr.intents import IntentStore
from llm4sbr.progress import Progress
from llm4sbr.protocols import Exporter, ExportSpec
from llm4sbr.ranking import SampleIntents
from llm4sbr.serving.artefact import FORMAT, RECORD
from llm4sbr.serving.recommend import Trained, choose, trained_models
from llm4sbr.verification import Inputs, Reference, verify

SUMMARY = "export.json"
"""What was exported and how it was verified, by artefact, beside the artefacts' folders."""

CALIBRATION = 512
"""Real sessions that ranges are measured on."""

TOLD = ("kind", "variant", "precision", "k", "fingerprint", "trained", "verified", "versions", "not_built")
"""What `SUMMARY` repeats of an artefact's record."""

PACKAGES = ("llm4sbr", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")
PACKAGES += ("tensorrt-cu12", "tensorrt-rtx-cu12")


@dataclass(frozen=True)
class Export:
    """What to export."""

    formats: tuple[str, ...] = ("onnx",)
    """Installed names of kind `exporters`."""
    precisions: tuple[str, ...] = ()
    """Each makes an artefact of its own; by default the one that a format prefers."""
    k: int = 20
    """Length of the lists."""
    variant: str | None = None
    """Which trained model; by default as `recommend` chooses."""
    seed: int | None = None
    intents: str | None = None
    """Of a fused model: `input`, `predictor` or `none`; by default an input."""
    provider: str = "auto"
    """Who must compute when the artefact is verified; `auto` also allows the CPU."""
    max_batch: int = 64
    """Most sessions in one request, where a format wants to know."""
    options: Mapping[str, Any] | None = None
    """Further options of the exporters."""


class Source(NamedTuple):
    """What is exported."""

    prepared: Prepared
    saved: SavedModel
    trained: Trained
    variant: str
    """`plain`, `intents`, `predictor` or `none`."""
    intents: SampleIntents | None
    """Of the test samples, where they are an input."""
    longest: int
    """Most clicks in a session."""

    def inputs(self, batch: Batch) -> Inputs:
        """The graph's inputs for test samples, without `exclude_seen`."""
        found = {"items": batch.items, "mask": batch.mask}
        if self.variant == "intents":
            text = self.saved.recipe.text_dim
            zeros = torch.zeros(len(batch.items), len(self.saved.recipe.perspectives), text)
            found["intents"] = self.intents.gather(batch.index) if self.intents else zeros
        return found

    def scores(self, inputs: Inputs) -> Tensor:
        """What the trained model makes of them, float (B, N)."""
        with torch.inference_mode():
            scores: Tensor = self.saved.model(
                inputs["items"],
                inputs["mask"],
                inputs.get("intents"),
                predict=self.variant == "predictor",
            )
        return scores


def export(run: Path, wanted: Export, progress: Progress) -> dict[str, Any]:
    """Write `export/<artefact>/` for every format and precision, and `export/export.json`.

    Args:
        run: has `prepare` and `train` and, for a model with intents, `localize`.
        wanted: what to export.
        progress: shows the samples verified.

    Returns:
        The records of the artefacts written now, by name.

    Raises:
        ExportError: an artefact does not answer as the trained model; nothing of it is left.
        DeviceError: a format needs a device that is not here; the others have been exported.
        InputError, StoreError, RegistryError: as their texts say.
    """
    source = _source(run, wanted)
    jobs = [(name, precision) for name in wanted.formats for precision in _precisions(name, wanted)]
    done: dict[str, Any] = {}
    missing: list[DeviceError] = []
    for name, precision in jobs:
        label = artefact_name(name, precision, wanted)
        try:
            done[label] = _artefact(
                run, label, name, precision, source=source, wanted=wanted, progress=progress
            )
        except DeviceError as error:
            missing.append(error)
            done[label] = {"kind": name, "precision": precision, "not_built": str(error)}
        _summarize(run / "export", label, done[label])
    if missing:
        raise missing[0]
    return done


def artefact_name(kind: str, precision: str, wanted: Export) -> str:
    """`onnx`, `onnx-int8`, `onnx-plain-predictor-int8`: the format and what was asked for besides."""
    rounded = precision if precision != "fp32" else None
    return "-".join(part for part in (kind, wanted.variant, wanted.intents, rounded) if part)


def _precisions(name: str, wanted: Export) -> tuple[str, ...]:
    offered: tuple[str, ...] = registry.load("exporters", name).precisions  # type: ignore[attr-defined]
    for precision in wanted.precisions:
        if precision not in offered:
            raise InputError(f"exporter {name}: no precision {precision!r}; it has {', '.join(offered)}")
    return wanted.precisions or offered[:1]


def _source(run: Path, wanted: Export) -> Source:
    trained = choose(trained_models(run), variant=wanted.variant, seed=wanted.seed)
    prepared = load(run / "prepare")
    saved = load_model(trained.folder)
    if saved.catalogue != catalogue_hash(prepared.catalogue):
        raise StoreError(
            f"{trained.folder}: trained on another catalogue than {run / 'prepare'}; train again"
        )
    if not len(prepared.samples["test"].key):
        raise StoreError(f"{run / 'prepare'}: no test samples to verify an export with")
    variant = _variant(saved, wanted.intents)
    folder = run / "localize" / trained.variant
    known = None
    if variant == "intents" and folder.exists():
        known = SampleIntents.of(IntentStore.open(folder), prepared.samples["test"])
    every = prepared.samples.values()
    longest = max(int((one.end - one.start).max()) for one in every if len(one.key))
    return Source(prepared, saved, trained, variant, known, longest)


def _variant(saved: SavedModel, intents: str | None) -> str:
    if saved.recipe.fuser is None:
        if intents is not None:
            raise InputError(f"--intents {intents}: the model is a plain backbone and takes none")
        return "plain"
    return {None: "intents", "input": "intents"}.get(intents, str(intents))


def _artefact(
    run: Path, label: str, kind: str, precision: str, *, source: Source, wanted: Export, progress: Progress
) -> dict[str, Any]:
    """Write and verify one artefact; its record."""
    exporter: Exporter = registry.create(
        "exporters", kind, provider=wanted.provider, **(wanted.options or {})
    )
    folder = run / "export" / label
    fresh = folder.with_name(label + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    with store.explained(folder, only_full=True):
        fresh.mkdir(parents=True)
    spec = _spec(source, precision, wanted)
    path = fresh / f"model{exporter.suffix}"
    progress.note(f"export: {label}, {source.variant} model {source.trained.variant}, K = {spec.k}")
    try:
        exporter.export(source.saved.model, _example(source), path, spec=spec)
        verified = _verified(exporter, path, label, source=source, spec=spec, progress=progress)
        shutil.copyfile(run / "prepare" / ITEMS, fresh / ITEMS)
        record = _record(fresh, kind, source=source, spec=spec, verified=verified)
        store.write_json(fresh / RECORD, record)
        store.replace_folder(fresh, folder)
    except DeviceError as error:  # what takes the next step elsewhere is kept; without a record, no artefact
        store.replace_folder(fresh, folder)
        raise DeviceError(f"{folder}: {error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return record


def _spec(source: Source, precision: str, wanted: Export) -> ExportSpec:
    recipe = source.saved.recipe
    about = {
        "fingerprint": store.fingerprint(store.read_json(source.trained.folder / MODEL_RECORD)),
        "catalogue": source.saved.catalogue,
        "variant": source.variant,
        "precision": precision,
        "k": str(wanted.k),
        "num_items": str(recipe.num_items),
        "max_length": str(source.longest),
        "perspectives": ",".join(recipe.perspectives),
        "text_dim": str(recipe.text_dim),
        "trained": f"{source.trained.variant}/seed-{source.trained.seed}",
        "llm4sbr": registry.core_version(),
    }
    return ExportSpec(wanted.k, source.variant, precision, wanted.max_batch, source.longest, about)


def _example(source: Source) -> Inputs:
    """Real sessions, spread over the test part."""
    samples = source.prepared.samples["test"]
    count = len(samples.key)
    index = torch.linspace(0, count - 1, min(count, CALIBRATION)).long()
    batch = collate(source.prepared.sessions, samples, index)
    return source.inputs(batch) | {"exclude_seen": torch.zeros(len(index), 1, dtype=torch.bool)}


def _verified(
    exporter: Exporter, path: Path, label: str, *, source: Source, spec: ExportSpec, progress: Progress
) -> dict[str, Any]:
    samples = source.prepared.samples["test"]
    scorer = exporter.load(path)
    with progress.task(f"verify {label}", len(samples.key), unit="samples") as advance:
        try:
            return verify(
                scorer,
                Reference(source.scores, source.inputs),
                sessions=source.prepared.sessions,
                samples=samples,
                k=spec.k,
                exact=spec.precision == "fp32",
                max_batch=spec.max_batch,
                advance=advance,
            )
        except ExportError as error:
            raise ExportError(f"{label}: {error}; nothing was kept") from None


def _record(
    folder: Path, kind: str, *, source: Source, spec: ExportSpec, verified: Mapping[str, Any]
) -> dict[str, Any]:
    recipe = source.saved.recipe
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    inputs = {
        "items": {"dtype": "int64", "shape": ["batch", "length"]},
        "mask": {"dtype": "bool", "shape": ["batch", "length"]},
        "exclude_seen": {"dtype": "bool", "shape": ["batch", 1]},
    }
    if source.variant == "intents":
        shape = ["batch", len(recipe.perspectives), recipe.text_dim]
        inputs["intents"] = {"dtype": "float32", "shape": shape}
    return {
        "format": FORMAT,
        "kind": kind,
        "variant": source.variant,
        "precision": spec.precision,
        "inputs": inputs,
        "outputs": {
            "item_ids": {"dtype": "int64", "shape": ["batch", spec.k]},
            "scores": {"dtype": "float32", "shape": ["batch", spec.k]},
        },
        "perspectives": list(recipe.perspectives),
        "text_dim": recipe.text_dim,
        "num_items": recipe.num_items,
        "k": spec.k,
        "max_length": spec.max_length,
        "catalogue": source.saved.catalogue,
        "fingerprint": spec.about["fingerprint"],
        "trained": spec.about["trained"],
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


def _summarize(folder: Path, label: str, record: Mapping[str, Any]) -> None:
    path = folder / SUMMARY
    known = store.read_json(path) if path.exists() else {}
    there = {name: one for name, one in known.items() if (folder / name).is_dir()}
    keys = (
        "kind",
        "variant",
        "precision",
        "k",
        "fingerprint",
        "trained",
        "verified",
        "versions",
        "not_built",
    )
    store.write_json(path, there | {label: {key: record[key] for key in keys if key in record}})
