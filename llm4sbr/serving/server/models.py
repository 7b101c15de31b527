"""The model that is being served, and its replacement by a newer version."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm4sbr import stamps, store
from llm4sbr.errors import InputError, Llm4sbrError, StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.artefact import GRAPH, RECORD, Artefact
from llm4sbr.serving.filters import Allowed, Filters
from llm4sbr.serving.recommendation import Explanation
from llm4sbr.serving.server.batching import Batcher, PendingRequest, ScoredList
from llm4sbr.serving.server.beside import beside
from llm4sbr.serving.server.choosing import Chosen
from llm4sbr.serving.server.http import busy
from llm4sbr.serving.server.known import KnownSessions
from llm4sbr.serving.server.logs import log, say
from llm4sbr.serving.server.lookup import Lookup
from llm4sbr.serving.server.metrics import Metrics
from llm4sbr.serving.server.named import NamedFilters
from llm4sbr.serving.server.settings import Settings

Stamp = tuple[tuple[str, int, int, int], ...]

OPENING = 600.0
"""Maximum seconds to open a version; one that takes longer is given up."""


class Model:
    """One version of the artefact: opened, verified, warm."""

    def __init__(self, artefact: Artefact, version: str, folder: Path, run: Path | None) -> None:
        self.artefact = artefact
        self.version = version
        """The first 12 hex digits of the sha256 of `artefact.json`: equal on every machine that serves it."""
        self.known = KnownSessions(artefact, folder, run)
        self.lookup = Lookup(Catalogue(artefact.keys, artefact.titles), artefact.attributes)
        self.filters = Filters(self.lookup.titles, artefact.attributes, lacks=artefact.lacks_filters)
        self.filters_version = 0
        self.engine = f"{artefact.record.get('kind', 'onnx')}, {artefact.provider}"
        self.batcher: Batcher

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        threads: int,
        max_batch: int,
        run: Path | None = None,
        named: NamedFilters | None = None,
    ) -> Model:
        """The model in an export folder, after two batches to warm it up.

        Args:
            folder: the export folder.
            threads: as for `Artefact.open`.
            max_batch: sessions in the larger of the two batches.
            run: the run it came from, if known sessions' intents are wanted.
            named: filters to replace.

        Raises:
            StoreError: files are missing, damaged, or do not belong together.
            ModelUnavailableError: a package is not installed.
        """
        version = version_of(folder)
        model = cls(Artefact.open(folder, threads=threads), version, folder, run)
        if version_of(folder) != version:
            raise StoreError(f"{folder}: changed while it was read; it is read again when it has settled")
        if named is not None:
            model.filters_version = named.apply(model.filters)
        for rows, length in ((1, 1), (max_batch, model.artefact.max_length)):
            ones = np.ones((rows, length), np.int64)
            compute(model.artefact, PendingRequest(ones, ones.astype(np.bool_), np.ones((rows, 1), np.bool_)))
        return model

    async def allowed(self, chosen: Chosen) -> Allowed | None:
        """The items that pass, None if there is no filter; found in a separate thread if that takes long.

        Raises:
            InputError: there is no such attribute or filter, or the model takes none.
        """
        if chosen.choice is None:
            return None
        found = partial(self.filters.allowed, unknown=chosen.unknown)
        if self.filters.quick(chosen.choice):
            return found(chosen.choice)
        return await self.lookup.apart(found, chosen.choice)

    async def intents(
        self, ids: list[int], *, explain: bool
    ) -> tuple[NDArray[np.float32] | None, Explanation | None]:
        """The result of `Known.find` for a session; with `explain`, predicted intents are explained.

        Steps that need torch, or go through all titles, run in a separate thread.
        """
        if explain and self.known.predicted is not None:
            return None, await self.lookup.apart(self.known.predicted.explain, ids)
        if self.known.recommender is None:
            return self.known.find(ids)
        return await self.lookup.apart(self.known.find, ids)


def compute(artefact: Artefact, job: PendingRequest) -> ScoredList:
    """The model's result; runs in the batcher's thread."""
    read = slice(artefact.max_length)  # older clicks stand behind
    told = artefact.predict(job.items[:, read], job.mask[:, read]) if job.tell_intents else None
    return ScoredList(*artefact.run(job.items, job.mask, job.exclude_seen, job.intents, job.allowed), told)


class Models:
    """Holds the current model and watches for newer ones.

    A request takes `current` once and stays with it, so that a swap in between does not touch it; the
    old model goes when the last request has let go of it.

    Args:
        folder: the export folder.
        settings: the server's, with this model's name.
        metrics: the server's.
        run: as for `Model.open`.
        named: named filters that change while the server runs.
        shadow: whether nobody waits for the model, so that it computes at a lower priority.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        metrics: Metrics,
        *,
        run: Path | None = None,
        named: NamedFilters | None = None,
        shadow: bool = False,
    ) -> None:
        self.folder = folder
        self.run = run
        self.named = named or NamedFilters()
        self.settings = settings
        self.name = settings.name
        self.metrics = metrics.of(settings.name)
        self.metrics.watches(lambda: self.refused)
        initializer = yield_to_others if shadow else None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model", initializer=initializer)
        self._current: Model | None = None
        self._seen: Stamp = ()
        self.refused = False
        """Whether the folder has a newer version, which cannot be used."""

    @property
    def ready(self) -> bool:
        """True once a model is warm."""
        return self._current is not None

    @property
    def current(self) -> Model:
        """The model that answers; `Refusal` 503 while the first one is being opened."""
        if self._current is None:
            raise busy(503, "the model is still being opened; try again")
        return self._current

    async def load(self) -> None:
        """Open the model in the folder, warm it up and start to serve it; errors as in `Artefact.open`."""
        self._seen = stamp(self.folder)
        settings = self.settings
        sizes = {"threads": settings.threads, "max_batch": settings.max_batch}
        opened = beside(partial(Model.open, self.folder, **sizes, run=self.run, named=self.named))
        try:
            model = await asyncio.wait_for(opened, OPENING)
        except TimeoutError:
            raise StoreError(f"{self.folder}: not opened within {OPENING:g} seconds") from None
        work = partial(compute, model.artefact)  # not `model`, which would then refer to itself
        model.batcher = Batcher(work, self._executor, settings, observe=self.metrics.batch)
        self._current, self.refused = model, False
        if model.filters_version != self.named.version:  # one was replaced meanwhile
            self.named.apply(model.filters)
        self.metrics.serves(
            model.version, model.artefact.intent_mode, partial(getattr, model.batcher, "rows")
        )
        artefact = model.artefact
        say(
            "model ready",
            model=self.name,
            version=model.version,
            variant=artefact.intent_mode,
            items=artefact.num_items,
            provider=artefact.provider,
        )
        await model.lookup.prepare()
        gc.collect()
        gc.freeze()  # otherwise each collection would visit every title of the catalogue

    async def watch(self) -> None:
        """Load every new version once its files have stopped changing; runs until cancelled.

        One that cannot be used is logged, and the old one goes on answering.
        """
        last = self._seen
        while True:
            await asyncio.sleep(self.settings.watch)
            now = stamp(self.folder)
            settled, last = now == last, now
            if settled and now and now != self._seen:
                await self.reload()

    async def reload(self) -> None:
        """Load the model; if it cannot be used, log why, and keep the old one if there is one."""
        try:
            await self.load()
            self.metrics.reloads["done"] += 1
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except (
            BaseException
        ) as error:  # whatever it is (a panic of polars is no `Exception`), keep the old one
            self.metrics.reloads["failed"] += 1
            self.refused = True
            known = isinstance(error, Llm4sbrError)
            serving = self._current.version if self._current is not None else None
            fields = {"model": self.name, "error": str(error), "serving": serving}
            log.error("new version refused", exc_info=not known, extra={"fields": fields})


def yield_to_others() -> None:
    """Give this thread a lower priority where threads have one (Linux)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def find_folder(path: Path) -> Path:
    """The exported model named by its own folder, by the run's `export` folder, or by the run.

    Raises:
        StoreError: there is none.
        InputError: the run has several and none of them is called `onnx`.
    """
    if (path / RECORD).exists():
        return path
    stamps.check_there(path)
    records = [*path.glob(f"export/*/{RECORD}"), *path.glob(f"*/{RECORD}")]
    found = sorted(one.parent for one in records if (one.parent / GRAPH).exists())
    if not found:
        raise StoreError(
            f"{path}: neither an exported model nor a run with one; run llm4sbr export {path} first"
        )
    named = [one for one in found if one.name == "onnx"] or found
    if len(named) > 1:
        raise InputError(f"{path}: several exports, name one: {', '.join(map(str, found))}")
    return named[0]


def version_of(folder: Path) -> str:
    """Name of the artefact in a folder; `StoreError` if there is none."""
    return store.file_sha256(folder / RECORD)[:12]


def stamp(folder: Path) -> Stamp:
    """Changes whenever a file of the folder changes; empty if there is no artefact in it."""
    try:
        if not (folder / RECORD).exists():
            return ()
        files = sorted(path for path in folder.iterdir() if path.is_file())
        found = [(path.name, path.stat()) for path in files]
    except OSError:  # the folder is being replaced
        return ()
    return tuple((name, one.st_ino, one.st_size, one.st_mtime_ns) for name, one in found)
