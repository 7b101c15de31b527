"""The manifest of a folder of intents, and the tensors that its shards must have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llm4sbr import store
from llm4sbr.errors import DamagedError, StoreError

MANIFEST = "manifest.json"
FORMAT = 2
"""Version of the format of shards and manifest."""

Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Tensor of a shard -> its dtype, and its shape without the first axis."""


def key_shapes(perspectives: int) -> Shapes:
    """Tensors of a keys shard: the samples' keys, and the rows of their P intents."""
    return {"keys": (torch.int64, ()), "rows": (torch.int32, (perspectives,))}


def intent_shapes(dim: int, f: int) -> Shapes:
    """Tensors of an intents shard: vectors (E), items (F), and the items' weights (F)."""
    return {
        "intents": (torch.float16, (dim,)),
        "items": (torch.int32, (f,)),
        "weights": (torch.float16, (f,)),
    }


def again(folder: Path) -> str:
    """The command that rebuilds the intents in a run's folder `localize/<source>`."""
    return f"run llm4sbr localize {folder.parent.parent} --force"


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest, including its own hash."""
    whole = {"format": FORMAT, **content}
    store.write_json(folder / MANIFEST, whole | {"sha256": store.fingerprint(whole)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest, and check the sizes of the shards it lists.

    Raises:
        StoreError: the manifest is missing, damaged or of another version, or a shard is missing, in another
            folder, or of another size.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise StoreError(f"{path}: no such file, so there are no finished intents; {again(folder)}")
    found = store.read_json(path)
    if not isinstance(found, dict) or "format" not in found:
        raise StoreError(f"{path}: not a manifest of intents; {again(folder)}")
    if found["format"] != FORMAT:
        raise StoreError(
            f"{path}: intents in format {found['format']}, this version reads {FORMAT}; {again(folder)}"
        )
    if found.get("sha256") != store.fingerprint({k: v for k, v in found.items() if k != "sha256"}):
        raise DamagedError(f"{path}: changed since it was written; {again(folder)}")
    for entry in (*found["keys"], *found["shards"]):
        if Path(entry["file"]).name != entry["file"]:  # the manifest may come from somebody else
            raise StoreError(f"{path}: lists {entry['file']!r}, which is not beside it; {again(folder)}")
        _check_size(folder / entry["file"], entry["bytes"])
    return found


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; {again(path.parent)}") from None
    if size != expected:
        raise DamagedError(f"{path}: {size:,} bytes instead of {expected:,}; {again(path.parent)}")
