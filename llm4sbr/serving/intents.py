"""Finds the intents of a live session, from one of the `SOURCES`, without asking an LLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr import store
from llm4sbr.data.batches import item_sessions
from llm4sbr.data.prepared import Prepared, catalogue_hash
from llm4sbr.errors import StoreError
from llm4sbr.intents import MANIFEST, IntentStore
from llm4sbr.intents.nearest import NearestSession, usable
from llm4sbr.protocols import Catalogue, Samples
from llm4sbr.serving.recommendation import SOURCES, Explanation, PerspectiveIntent, Source, tied


class LiveIntents:
    """Finds stored intents for live sessions.

    Args:
        intents: the known sessions' intents.
        prepared: the run's data; sessions of every split are known.
        answers: folder with the parsed answers, `<perspective>.parquet`; may be missing.
    """

    def __init__(self, intents: IntentStore, prepared: Prepared, answers: Path) -> None:
        self.intents = intents
        self.prepared = prepared
        self.answers = answers
        every = Samples(*(torch.cat(part) for part in zip(*prepared.samples.values(), strict=True)))
        self._nearest = NearestSession(intents, prepared.sessions, every)
        self._tables: dict[str, pl.DataFrame] = {}

    def find(self, ids: Sequence[int], source: Source) -> tuple[Tensor, Explanation] | None:
        """Intents float32 (1, P, E) for a session, and their source; None if there are none.

        Args:
            ids: catalogue ids, oldest first, not empty, cut to the length that the model saw.
            source: `items` if the LLM was asked about items, else `cache` or `nearest`; nothing is found in
                others.
        """
        row = self.row(ids, source)
        return None if row < 0 else (self.vectors(row), self.explain(row, source))

    def row(self, ids: Sequence[int], source: Source) -> int:
        """The row of the intents for a session, -1 if there are none; arguments as for `find`."""
        if source == ("items" if self.intents.unit == "item" else "cache"):
            return usable(self.intents, torch.tensor([self.intents.row(ids)]))
        if source == "nearest" and self.intents.unit == "session":
            return self._nearest.find(ids)
        return -1

    def vectors(self, row: int) -> Tensor:
        """The intents of a row, float32 (1, P, E)."""
        return self.intents.gather(torch.tensor([row]))

    def explain(self, row: int, source: Source) -> Explanation:
        """The session of a row, its answers, and the items they were tied to."""
        catalogue = self.prepared.catalogue
        items, weights = (part[0].tolist() for part in self.intents.located(torch.tensor([row])))
        perspectives = [
            PerspectiveIntent(
                name,
                self._answer(name, int(self.intents.keys[row])),
                tied(catalogue, zip(places, shares, strict=True)),
            )
            for name, places, shares in zip(self.intents.perspectives, items, weights, strict=True)
        ]
        return Explanation(source, [catalogue.titles[id - 1] for id in self._session(row)], perspectives)

    def _session(self, row: int) -> Sequence[int]:
        """Catalogue ids of what a row is about."""
        if self.intents.unit == "session":
            return self.prepared.prefix(self._nearest.samples, row)
        key, (_, samples) = self.intents.keys[row], item_sessions(self.prepared.catalogue.size)
        return [int((samples.key == key).nonzero()) + 1]

    def _answer(self, perspective: str, key: int) -> str:
        path = self.answers / f"{perspective}.parquet"
        if perspective not in self._tables:
            if not path.exists():
                return ""
            self._tables[perspective] = store.read_table(path, ["key", "parsed"])
        found = self._tables[perspective].filter(pl.col("key") == key)["parsed"]
        return str(found[0]) if len(found) else ""


def tried(source: str) -> tuple[Source, ...]:
    """The sources to try, in order: all for `auto`, else the one named."""
    return SOURCES if source == "auto" else tuple(one for one in SOURCES if one == source)


def explain_predicted(
    predicted: Tensor,
    perspectives: Sequence[str],
    catalogue: Catalogue,
    titles: Tensor,
    *,
    f: int,
    source: Source = "predictor",
) -> Explanation:
    """Explains a model's own intents by the items with the most similar titles.

    Args:
        predicted: float32 (1, P, E).
        perspectives: their names.
        catalogue: the items.
        titles: float32 (N, E), title vectors at unit length; (0, E) if they are missing.
        f: items per perspective.
        source: what they are, `predictor` or `items`.
    """
    cosines, rows = (normalize(predicted[0], dim=1) @ titles.T).topk(min(f, len(titles)))  # (P, f)
    meanings = [
        PerspectiveIntent(name, "", tied(catalogue, zip((row + 1).tolist(), cosine.tolist(), strict=True)))
        for name, row, cosine in zip(perspectives, rows, cosines, strict=True)
    ]
    return Explanation(source, [], meanings)


def live_intents(run: Path, variant: str, prepared: Prepared) -> LiveIntents | None:
    """The stored intents of a run's variant; None if it has none.

    Raises:
        StoreError: they were made for another catalogue.
    """
    folder = run / "localize" / variant
    if not (folder / MANIFEST).exists():
        return None
    intents = IntentStore.open(folder)
    same_catalogue(prepared, intents.catalogue_hash, folder)
    return LiveIntents(intents, prepared, run / "infer" / variant)


def same_catalogue(prepared: Prepared, found: str, folder: Path) -> None:
    """Raise `StoreError` if what is in a folder was made for another catalogue than the run's."""
    if found != catalogue_hash(prepared.catalogue):
        raise StoreError(f"{folder}: made for another catalogue than prepare has now; run its stage again")
