"""`catalogue`: items that come into a trained model's catalogue, or leave it, without training.

Where the encoder is, `describe` makes a file of them from a table of items; `change` puts such a file, or
takes items out, in exported models, which needs neither torch nor encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from llm4sbr import folders, registry, stamps, store
from llm4sbr.config.in_force import configure
from llm4sbr.data import catalogue as catalogues
from llm4sbr.data.readers import columns
from llm4sbr.data.readers.columns import Names
from llm4sbr.data.readers.delimited import read_csv
from llm4sbr.errors import InputError
from llm4sbr.exporting.new_items import measured_prior, rows_of
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.intents.texts import items_of
from llm4sbr.localization.space import item_texts
from llm4sbr.progress import Progress
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.added import ADDED, Added, other_title, put
from llm4sbr.serving.artefact import RECORD, read_record
from llm4sbr.serving.attributes import ATTRIBUTES
from llm4sbr.serving.grown import QUERIES
from llm4sbr.serving.items import catalogue_of
from llm4sbr.serving.newcomers import FOLDER
from llm4sbr.stages.localize import ANSWERS

ANSWER = "answer"
"""Column of a table of new items: what the LLM said about each."""


def describe(run: Path, table: Path, progress: Progress, *, variant: str | None = None) -> Path:
    """Add the items of a table to those of `run/catalogue/added.safetensors`; that file.

    Args:
        run: a trained run.
        table: CSV: item, title, attributes.
        progress: tells what was measured.
        variant: which model; by default the one that is exported.

    Raises:
        InputError: an item has another title already, or the model cannot score titles.
    """
    stamps.check_there(run)
    read, rejected = read_csv(table)
    for line in rejected[:5]:
        progress.note(f"catalogue: {line}")
    items = columns.items(read, Names(), where=table)
    given, _ = catalogues.build(items["item"].unique(maintain_order=True), items)
    original = ReferenceModel.of(run, variant=variant)
    own = original.prepared.catalogue
    path = run / FOLDER / ADDED
    before = Added.open(path) if path.exists() else None
    known = dict(zip(own.keys, own.titles, strict=True))
    earlier = dict(zip(before.keys, before.titles, strict=True)) if before else {}
    if wrong := other_title(earlier | known, given.keys, given.titles):
        raise InputError(f"{table}: {wrong}; nothing was added")
    new = _together(own, before, given)
    progress.note(f"catalogue: {len(new.keys):,} new items, {len(given.keys):,} in {table.name}")
    config = configure(run).localize
    encoder: Any = registry.create("encoders", config.encoder, **config.encoder_options)
    vectors = encoder.encode(texts_of_new(new, config.item_text))
    plain = rows_of(original, vectors)
    texts = store.read_tensors(items_of(run / "localize", original.trained.variant))["items"]
    prior = measured_prior(original, texts)
    rows = plain * prior.scale
    alike = normalize(vectors, dim=1) @ normalize(texts, dim=1).T
    nearest = alike.argmax(1) + 1 if len(vectors) else torch.zeros(0, dtype=torch.int64)
    attributes = {name: list(column) for name, column in new.attributes.items()}
    parts = (original.fingerprint, list(new.keys), list(new.titles), attributes, rows.numpy())
    removed = [key for key in (before.removed if before else []) if key not in set(given.keys)]
    with folders.locked(run, what="run"):
        Added(*parts, nearest.numpy(), prior.value, removed, prior.measured).write(path)
    return path


def texts_of_new(new: Catalogue, kind: str) -> list[str]:
    """What represents new items, as `localize.item_text` says for the others.

    Where the model's items are represented by what the LLM said about them, so are new ones that have an
    attribute `answer`; the others by their title.
    """
    said = new.attributes.get(ANSWER)
    if kind not in ANSWERS or said is None:
        return list(item_texts(new, kind).titles)
    joined = zip(new.titles, said, strict=True)
    return [
        "\n".join((title, text) if kind == "both" and text else (text or title,)) for title, text in joined
    ]


def _together(own: Catalogue, before: Added | None, given: Catalogue) -> Catalogue:
    """The items of an earlier file and of a table that the model does not have, each once."""
    texts: dict[str, tuple[str, dict[str, str]]] = {}
    sources = [(before.keys, before.titles, before.attributes)] if before else []
    sources.append((list(given.keys), list(given.titles), {k: list(v) for k, v in given.attributes.items()}))
    for keys, titles, attributes in sources:
        for number, key in enumerate(keys):
            texts[key] = (titles[number], {name: column[number] for name, column in attributes.items()})
    for key in own.keys:
        texts.pop(key, None)
    names = dict.fromkeys(name for _, found in texts.values() for name in found)
    columns_ = {name: [found.get(name, "") for _, found in texts.values()] for name in names}
    return Catalogue(list(texts), [title for title, _ in texts.values()], columns_)


def change(folder: Path, added: Added, *, replace: bool = False) -> Added:
    """Put new items in an exported model, on top of those that it has, or in their place.

    Raises:
        InputError: they are of another model, or an item has another title there.
    """
    record = read_record(folder)
    if added.fingerprint != record["fingerprint"]:
        raise InputError(f"{folder}: another model than these items were made for; run catalogue add again")
    if added.removed and ATTRIBUTES not in record["files"]:
        raise InputError(f"{folder}: exported by an earlier version, which takes no filters; export again")
    if added.keys and not takes_new(record):
        raise InputError(
            f"{folder}: exported by an earlier version, without what new items need; export again"
        )
    before = Added.open(folder / ADDED) if ADDED in record["files"] else None
    known = before and dict(zip(before.keys, before.titles, strict=True))
    if wrong := other_title(known or {}, added.keys, added.titles):
        raise InputError(f"{folder}: {wrong}; nothing was added")
    found = before.merged(added) if before and not replace else added
    put(folder, record, found)
    return found


def takes_new(record: dict[str, Any]) -> bool:
    """Whether an exported model tells the query by which new items are scored."""
    return not record["outputs"].keys().isdisjoint(QUERIES)


def add(target: Path, items: Path, progress: Progress, *, variant: str | None = None) -> dict[str, Any]:
    """Add items to a run (a table) or to an exported model (a file of `describe`); as `listed`.

    Raises:
        InputError: see `describe` and `change`.
    """
    if (target / RECORD).exists():
        change(target, Added.open(items))
        return listed(target)
    added = Added.open(describe(target, items, progress, variant=variant))
    _spread(target, added)
    return listed(target)


def remove(target: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Take items out of a run's exports, or of one; as `listed`.

    Raises:
        InputError: there is no such item.
    """
    if (target / RECORD).exists():
        record = read_record(target)
        added = _added(target / ADDED) or _nothing(record["fingerprint"])
        change(target, _less(added, keys, set(catalogue_of(target, record).keys)), replace=True)
        return listed(target)
    stamps.check_there(target)
    path = target / FOLDER / ADDED
    original = ReferenceModel.of(target)
    added = _added(path) or _nothing(original.fingerprint)
    with folders.locked(target, what="run"):
        added = _less(added, keys, set(original.prepared.catalogue.keys))
        added.write(path)
    _spread(target, added)
    return listed(target)


def listed(target: Path) -> dict[str, Any]:
    """What was `added` and `removed`, how the prior was `measured`, and in which `exports` it is."""
    artefact = (target / RECORD).exists()
    if not artefact:
        stamps.check_there(target)
    added = _added(target / ADDED if artefact else target / FOLDER / ADDED) or _nothing("")
    exports = [target] if artefact else _artefacts(target, added.fingerprint)
    return {
        "added": [{"key": key, "title": one} for key, one in zip(added.keys, added.titles, strict=True)],
        "removed": added.removed,
        "measured": added.measured,
        "exports": [str(one) for one in exports],
    }


def bring_in(run: Path, exports: Sequence[Path]) -> str:
    """Put a run's new items in exports that were just made; why that is not possible, or ""."""
    added = _added(run / FOLDER / ADDED)
    if added is None or not (added.keys or added.removed):
        return ""
    for folder in exports:
        record = read_record(folder)
        if added.fingerprint != record["fingerprint"]:
            return f"{run / FOLDER / ADDED} has items for another model; run llm4sbr catalogue add again"
        if takes_new(record):
            change(folder, added, replace=True)
    return ""


def _spread(run: Path, added: Added) -> None:
    for folder in _artefacts(run, added.fingerprint):
        if takes_new(read_record(folder)):
            change(folder, added, replace=True)


def _artefacts(run: Path, fingerprint: str) -> list[Path]:
    """The run's exported models with this fingerprint."""
    found = sorted(path.parent for path in run.glob(f"export/*/{RECORD}"))
    return [one for one in found if read_record(one)["fingerprint"] == fingerprint]


def _added(path: Path) -> Added | None:
    return Added.open(path) if path.exists() else None


def _nothing(fingerprint: str) -> Added:
    rows = np.zeros((0, 0), np.float32)
    return Added(fingerprint, [], [], {}, rows, np.zeros(0, np.int64), 0.0, [], {})


def _less(added: Added, keys: Sequence[str], own: set[str]) -> Added:
    """Without new items of these keys, and with the model's own among them in no list."""
    for key in keys:
        if key not in own and key not in added.keys:
            raise InputError(f"no item has the key {key!r:.60}; nothing was taken out")
    gone = sorted({*added.removed, *(key for key in keys if key in own)})
    return added.without(keys)._replace(removed=gone)
