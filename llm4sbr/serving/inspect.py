"""Shows, counts and verifies the stored intents of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm4sbr import stamps
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.intents import IntentStore, sources_of, verify_all
from llm4sbr.serving.intents import LiveIntents
from llm4sbr.serving.titles import TitleIndex, resolve_session

LLM = "llm"


def sources(run: Path) -> list[str]:
    """Sources of a run's intents, the LLM's first; `StoreError` if there are none."""
    stamps.check_there(run)
    found = sources_of(run / "localize")
    if not found:
        raise StoreError(f"{run}: no intents; run llm4sbr localize {run} --llm NAME first")
    return found


def stats(run: Path) -> list[dict[str, Any]]:
    """Size of each source's intents, and the share of the samples of each split that has some.

    Raises:
        StoreError: there are none, or files are missing or damaged.
    """
    names, prepared = sources(run), load(run / "prepare")
    return [_counted(IntentStore.open(run / "localize" / name), name, prepared) for name in names]


def _counted(store: IntentStore, name: str, prepared: Prepared) -> dict[str, Any]:
    manifest = store.manifest
    known = {
        split: store.rows_of(prepared.sessions, samples) >= 0 for split, samples in prepared.samples.items()
    }
    about = ("encoder", "pooling", "localizer", "item_text", "prompts")
    return {
        "source": name,
        "perspectives": store.perspectives,
        "rows": len(store),
        "intents": len(store) * len(store.perspectives),
        "distinct": store.distinct,
        "dim": store.dim,
        "f": store.f,
        "dtype": manifest["dtype"],
        "bytes": store.bytes,
        "shards": store.shards,
        "covered": {split: _share(found) for split, found in known.items()},
        "catalogue": store.catalogue_hash,
        **{key: manifest[key] for key in about if key in manifest},
    }


def _share(known: Tensor) -> float | None:
    return round(float(known.double().mean()), 4) if len(known) else None


def verify(run: Path) -> list[dict[str, Any]]:
    """Verify all intents of a run.

    Returns:
        What was found whole, by source.

    Raises:
        StoreError: there are none, something is missing, a byte has changed, or they are another
            catalogue's.
    """
    sources(run)
    catalogue = catalogue_hash(load(run / "prepare").catalogue)
    stores = verify_all(run / "localize", catalogue=catalogue)
    return [
        {"source": name, "rows": len(store), "shards": store.shards, "bytes": store.bytes}
        for name, store in stores.items()
    ]


def show(
    run: Path, *, source: str = LLM, session: str | None = None, key: int | None = None, count: int = 3
) -> list[dict[str, Any]]:
    """Intents of sessions: titles with weights from every perspective, and the LLM's answers.

    Args:
        run: has `prepare` and `localize`; answers are shown if it has `infer` too.
        source: source of the intents.
        session: titles or keys of a session, oldest first, as for `recommend`.
        key: a sample's key instead.
        count: number of sessions to show, spread over all, if none is named.

    Returns:
        Per session its `key`, its `session` of titles, and `perspectives`, each with its name, `answer` and
        `items` with `weight`; an intent that is tied to nothing has no items.

    Raises:
        InputError: there are no intents of this source, or none of this session.
        StoreError: files are missing or damaged.
    """
    names = sources(run)
    if source not in names:
        raise InputError(f"--source {source}: {run} has no such intents; it has {', '.join(names)}")
    prepared = load(run / "prepare")
    store = IntentStore.open(run / "localize" / source)
    live = LiveIntents(store, prepared, run / "infer" / source)
    if session is None and key is None:
        rows = torch.linspace(0, len(store) - 1, min(count, len(store))).long().tolist()
    else:
        rows = [store.row(_ids(session, prepared))] if session else store.rows(torch.tensor([key])).tolist()
        if rows == [-1]:
            what = f"--key {key}" if session is None else f"--session {session!r}"
            raise InputError(
                f"{what}: no answer of {source} is stored; llm4sbr intents show {run} names some"
            )
    return list(_shown(live, rows))


def _ids(session: str, prepared: Prepared) -> list[int]:
    found = resolve_session(session, TitleIndex(prepared.catalogue), unknown="fail")
    ids = [item.id for item in found.items]
    longest = max(int((one.end - one.start).max()) for one in prepared.samples.values() if len(one.key))
    return ids[-longest:]


def _shown(live: LiveIntents, rows: list[int]) -> Iterator[dict[str, Any]]:
    for row in rows:
        explained = live.explain(row, "cache")
        perspectives = [asdict(intent) for intent in explained.perspectives]
        yield {"key": int(live.intents.keys[row]), "session": explained.session, "perspectives": perspectives}
