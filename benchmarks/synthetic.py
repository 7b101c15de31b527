"""Export folders of any catalogue size: a model with random weights, through the real exporter."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from llm4sbr.data.prepared import catalogue_hash
from llm4sbr.exporting import ExportSpec
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.protocols import Catalogue, Horizon
from llm4sbr.serving.artefact import FORMAT, RECORD
from llm4sbr.serving.items import ITEMS, write_items
from llm4sbr.serving.names import LARGE, NAMES, write_names
from llm4sbr.serving.search import INDEX
from llm4sbr.store import file_sha256
from llm4sbr_export.onnx import Onnx

WIDTH, TEXT, LONGEST = 100, 384, 50
"""D, E and T of the models."""

PERSPECTIVES: tuple[Horizon, ...] = ("long", "short")

COLOURS = ("Red", "Blue", "Green", "White", "Black", "Silver", "Golden", "Grey", "Brown", "Violet")
THINGS = ("Lamp", "Chair", "Table", "Clock", "Mirror", "Shelf", "Vase", "Rug", "Door", "Desk")
PLACES = ("Garden", "Kitchen", "Office", "Hall", "Attic", "Cellar", "Study", "Porch", "Stable", "Tower")


def catalogue(items: int) -> Catalogue:
    """Items with keys `i0000001` ... and distinct titles such as `Red Lamp of the Garden 12 (1990)`."""
    things = [f"{COLOURS[i % 10]} {THINGS[i // 10 % 10]} of the {PLACES[i // 100 % 10]}" for i in range(1000)]
    titles = [f"{things[i % 1000]} {i // 1000} ({1950 + i % 70})" for i in range(items)]
    return Catalogue([f"i{i + 1:07}" for i in range(items)], titles)


def random_model(items: int, variant: str, *, backbone: str = "sr-gnn", seed: int = 0) -> LLM4SBR:
    """A model with random weights, fused unless `variant` is `plain`."""
    recipe = Recipe(items, WIDTH, backbone)
    if variant != "plain":
        recipe = recipe._replace(
            fuser="gated", perspectives=PERSPECTIVES, horizons=PERSPECTIVES, text_dim=TEXT
        )
    torch.manual_seed(seed)
    return build(recipe).eval()


def write_artefact(
    folder: Path,
    *,
    items: int,
    variant: str = "plain",
    precision: str = "fp32",
    backbone: str = "sr-gnn",
    k: int = 20,
    seed: int = 0,
    model: LLM4SBR | None = None,
    sessions: Tensor | None = None,
) -> Path:
    """Write an export folder and return it.

    Args:
        folder: created if missing.
        items: N.
        variant: `plain` or another intent mode.
        precision: of the exporter `onnx`.
        backbone: of a randomly initialised model.
        k: K.
        seed: of its weights.
        model: the model itself.
        sessions: that an index is tuned on, right-padded int64 (B, T).
    """
    folder.mkdir(parents=True, exist_ok=True)
    perspectives = PERSPECTIVES if variant != "plain" else ()
    whole = catalogue(items)
    facts: dict[str, object] = {
        "fingerprint": f"synthetic-{seed}",
        "catalogue": catalogue_hash(whole),
        "variant": variant,
    }
    facts |= {"k": k, "num_items": items, "max_length": LONGEST}
    spec = ExportSpec(k, variant, precision, 64, LONGEST, {key: str(value) for key, value in facts.items()})
    inputs = ["items", "mask", "exclude_seen", *(["intents"] if variant == "intents" else [])]
    model = model or random_model(items, variant, backbone=backbone, seed=seed)
    example = {} if sessions is None else {"items": sessions, "mask": sessions > 0}
    Onnx(provider="cpu").export(model, example, folder / "model.onnx", spec=spec)
    if precision == "index":
        inputs.remove("exclude_seen")
    write_items(folder / ITEMS, whole)
    if items >= LARGE:
        write_names(folder / NAMES, whole)
    files = [path for path in folder.iterdir() if path.name.startswith(("model.onnx", ITEMS, INDEX, NAMES))]
    record = facts | {"format": FORMAT, "kind": "onnx", "precision": precision}
    record |= {"perspectives": list(perspectives), "text_dim": TEXT if perspectives else 0}
    record |= {"verified": {}, "versions": {}}
    record |= {"inputs": {name: {} for name in inputs}, "outputs": {"item_ids": {}, "scores": {}}}
    record["files"] = {path.name: file_sha256(path) for path in files}
    (folder / RECORD).write_text(json.dumps(record))
    return folder
