"""Saves and loads a trained model: `model.safetensors` and `model.json`. Loading executes nothing from them.

The JSON names the components, which come from the registry, so only installed code is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm4sbr import registry, store
from llm4sbr.errors import DamagedError, RegistryError, StoreError
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.system import installation

WEIGHTS = "model.safetensors"
RECORD = "model.json"
FORMAT = 1
"""Version of the format of `model.json`."""


class SavedModel(NamedTuple):
    """A loaded model, ready to score."""

    model: LLM4SBR
    recipe: Recipe
    catalogue: str
    """Hash of the catalogue it was trained on."""
    facts: dict[str, Any]
    """Facts about its training and validation."""


def save_model(
    folder: Path, model: LLM4SBR, *, recipe: Recipe, catalogue: str, facts: Mapping[str, Any]
) -> None:
    """Write the weights, then the record with their hash; a folder with a record is complete.

    Args:
        folder: created if missing.
        model: the model.
        recipe: the recipe it was built from.
        catalogue: `catalogue_hash` of the items it scores.
        facts: JSON values: seed, epochs, validation metrics, times.
    """
    store.write_tensors(folder / WEIGHTS, model.state_dict())
    record = {
        "format": FORMAT,
        "recipe": recipe._asdict(),
        "catalogue": catalogue,
        "weights": store.file_sha256(folder / WEIGHTS),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": registry.versions(recipe.components()) | {"torch": str(torch.__version__)},
        "facts": dict(facts),
    }
    store.write_json(folder / RECORD, record)


def load_model(folder: Path) -> SavedModel:
    """Read a model in evaluation mode, on the CPU.

    Raises:
        StoreError: a file is missing, has changed since it was written, or does not match its record.
        RegistryError: a component of the model is not installed.
    """
    record = store.read_json(folder / RECORD)
    recipe, catalogue, digest, facts = _parse(record, folder / RECORD)
    if store.file_sha256(folder / WEIGHTS) != digest:
        raise DamagedError(f"{folder / WEIGHTS}: changed since {RECORD} was written; train the model again")
    _check_installed(recipe, record.get("versions", {}), folder)
    model = build(recipe)
    _load_weights(model, store.read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return SavedModel(model.eval(), recipe, catalogue, facts)


def _parse(record: Any, path: Path) -> tuple[Recipe, str, str, dict[str, Any]]:
    try:
        written = record["format"]
        if written != FORMAT:
            raise StoreError(f"{path}: model format {written}, this version reads {FORMAT}; train it again")
        fields: dict[str, Any] = dict(record["recipe"])
        fields |= {key: tuple(fields[key]) for key in ("perspectives", "horizons")}
        fields["counted"] = tuple(fields.get("counted", ()))  # models of before have none
        return Recipe(**fields), record["catalogue"], record["weights"], dict(record["facts"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StoreError(f"{path}: not a model record ({reason}); train the model again") from None


def _check_installed(recipe: Recipe, versions: Mapping[str, str], folder: Path) -> None:
    """Raise an error that names the package of a component that has been uninstalled since training."""
    for kind, name in recipe.components():
        package = versions.get(f"{kind}/{name.rpartition(':')[2]}")
        bare = (package or "").partition("==")[0]
        if package and not any(c.package == bare for c in registry.components(kind)):
            ours = bare in registry.OFFERED.values()
            mend = installation.plugin_command(bare) if ours else f"pip install {package}"
            raise RegistryError(
                f"{folder}: trained with the {kind[:-1]} {name!r} of {package}, which is not "
                f"installed: {mend}"
            )


def _load_weights(model: LLM4SBR, weights: Mapping[str, Tensor], path: Path) -> None:
    _make_room(model, weights)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            has, needs = found.get(name, "nothing"), expected.get(name, "nothing")
            raise StoreError(
                f"{path}: tensor {name}: the file has {has}, the model needs {needs}; train again"
            )
    model.load_state_dict(dict(weights))


def _make_room(model: LLM4SBR, weights: Mapping[str, Tensor]) -> None:
    """Resize buffers that are empty until `fit` to the shapes in the file."""
    for name, buffer in list(model.named_buffers()):
        found = weights.get(name)
        if found is not None and not buffer.numel() and found.ndim == buffer.ndim:
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, torch.empty_like(found, dtype=buffer.dtype))
