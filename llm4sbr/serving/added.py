"""Items that came after the training, for an exported model: scored by their titles, without another export.

One safetensors file in the artefact, made where the encoder is (`stages.catalogue`) and read here without
torch. The score of a new item is the inner product of its row with the session's query, which the graph puts
out, plus a prior that is the same for all new items and was measured.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr import folders, store
from llm4sbr.errors import InputError, StoreError

ADDED = "added.safetensors"

MOST = 100_000
"""Items that can be added before the model has to be trained or exported again."""

Ids = NDArray[np.int64]


class Added(NamedTuple):
    """What was added to a model's catalogue, and what was taken out."""

    fingerprint: str
    """Of the model whose query the rows are for."""
    keys: list[str]
    titles: list[str]
    attributes: dict[str, list[str]]
    """Name -> a text per new item, "" where unknown."""
    rows: NDArray[np.float32]
    """float32 (n, Q)."""
    read_as: Ids
    """int64 (n,), of each new item the known one whose title is most alike."""
    prior: float
    removed: list[str]
    """Keys of the model's own items that are in no list."""
    measured: dict[str, Any]
    """How the prior was measured."""

    def write(self, path: Path) -> None:
        """Write the file at `path`."""
        from safetensors.numpy import save_file

        facts = {
            name: json.dumps(value)
            for name, value in self._asdict().items()
            if name not in ("rows", "read_as")
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray[Any]] = {
            "rows": np.ascontiguousarray(self.rows),
            "read_as": np.ascontiguousarray(self.read_as),
        }
        with store.writing(path) as temporary:
            save_file(tensors, temporary, facts)

    @classmethod
    def open(cls, path: Path) -> Added:
        """Read what `write` wrote; `StoreError` if it is something else."""
        from safetensors import SafetensorError, safe_open

        store.regular(path)
        try:
            with safe_open(path, "numpy") as file:
                rows, read_as = file.get_tensor("rows"), file.get_tensor("read_as")
                facts = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            found = cls(rows=rows, read_as=read_as, **facts)
            found._check()
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(f"{path}: no items to be added ({reason}); run catalogue add again") from None
        return found

    def _check(self) -> None:
        texts = (self.keys, self.titles, self.removed, *self.attributes.values())
        if not all(isinstance(one, str) for column in texts for one in column):
            raise ValueError("a key, title or attribute that is no text")
        if {len(column) for column in (self.titles, *self.attributes.values())} - {len(self.keys)}:
            raise ValueError("columns of different lengths")
        if self.rows.dtype != np.float32 or self.rows.ndim != 2 or len(self.rows) != len(self.keys):
            raise ValueError(f"rows {self.rows.dtype} {self.rows.shape} of {len(self.keys)} items")
        if self.read_as.dtype != np.int64 or self.read_as.shape != (len(self.keys),):
            raise ValueError(f"read_as {self.read_as.dtype} {self.read_as.shape}")
        if not np.isfinite(self.rows).all() or not np.isfinite(self.prior):
            raise ValueError("numbers that are not finite")
        if len(set(self.keys)) < len(self.keys) or len(self.keys) > MOST:
            raise ValueError(f"{len(self.keys)} items, at most {MOST}, each once")

    def merged(self, other: Added) -> Added:
        """With what another file of the same model adds; its rows are newer."""
        if other.fingerprint != self.fingerprint:
            raise InputError("the items were made for another model; run catalogue add on its run")
        kept = self.without(other.keys)
        names = [*kept.attributes, *(name for name in other.attributes if name not in kept.attributes)]
        columns = {
            name: [
                *kept.attributes.get(name, [""] * len(kept.keys)),
                *other.attributes.get(name, [""] * len(other.keys)),
            ]
            for name in names
        }
        return other._replace(
            keys=kept.keys + other.keys,
            titles=kept.titles + other.titles,
            attributes=columns,
            rows=np.concatenate([kept.rows, other.rows]),
            read_as=np.concatenate([kept.read_as, other.read_as]),
            removed=sorted({*kept.removed, *other.removed}),
        )

    def without(self, keys: Collection[str]) -> Added:
        """Without the new items of these keys."""
        left = [number for number, key in enumerate(self.keys) if key not in set(keys)]
        return self._replace(
            keys=[self.keys[number] for number in left],
            titles=[self.titles[number] for number in left],
            attributes={name: [column[n] for n in left] for name, column in self.attributes.items()},
            rows=self.rows[left],
            read_as=self.read_as[left],
        )


def other_title(known: Mapping[str, str], keys: Collection[str], titles: Collection[str]) -> str | None:
    """The first item that has another title already, as a message; None if there is none."""
    for key, title in zip(keys, titles, strict=True):
        if known.get(key, title) != title:
            return f"item {key!r:.60} is {known[key]!r:.60} in the catalogue, and {title!r:.60} here"
    return None


def put(folder: Path, record: dict[str, Any], added: Added) -> None:
    """Write an artefact's folder anew with these items; a server takes it up as a new version."""
    from llm4sbr.serving.artefact import RECORD

    fresh = folder.with_name(folder.name + ".tmp")
    with store.explained(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        folders.link_files(folder, fresh)
        for name in (RECORD, ADDED):  # links: to be written anew, not through
            (fresh / name).unlink(missing_ok=True)
        files = {name: digest for name, digest in record["files"].items() if name != ADDED}
        if added.keys or added.removed:
            added.write(fresh / ADDED)
            files[ADDED] = store.file_sha256(fresh / ADDED)
        store.write_record(fresh / RECORD, record | {"files": files})
        folders.replace_folder(fresh, folder)
