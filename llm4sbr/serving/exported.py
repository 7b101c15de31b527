"""Recommends with an exported model; torch is needed only for stored intents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llm4sbr import store
from llm4sbr.errors import InputError, StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.answering import (
    Answerer,
    Clicks,
    Session,
    Wanted,
    answer,
    answer_all,
    at_once,
    in_batches,
    padded,
)
from llm4sbr.serving.artefact import RECORD, Artefact
from llm4sbr.serving.filters import Allowed, Choice, Chooser, Filters
from llm4sbr.serving.predicted import Predicted
from llm4sbr.serving.recommendation import LENGTH, Explanation, Recommendation, check
from llm4sbr.serving.titles import TitleIndex, Understood, resolve_session

if TYPE_CHECKING:
    from llm4sbr.serving.intents import LiveIntents


class ExportedRecommender:
    """An exported model, with the interface of `Recommender`.

    Args:
        artefact: opened.
        live: finds stored intents, for a model that takes them.
        folder: the artefact's folder, with titles to explain predicted intents.
    """

    def __init__(
        self, artefact: Artefact, *, live: LiveIntents | None = None, folder: Path | None = None
    ) -> None:
        self.artefact = artefact
        self.live = live
        self.catalogue = Catalogue(artefact.keys, artefact.titles)
        self.titles = TitleIndex(self.catalogue)
        self.filters = Filters(self.titles, artefact.attributes, lacks=artefact.lacks_filters)
        self.predicted = (
            Predicted(artefact, folder) if folder and artefact.intent_mode == "predictor" else None
        )
        variant, _, seed = str(artefact.record.get("trained", artefact.intent_mode)).partition("/seed-")
        self.variant, self.seed = variant, int(seed) if seed.isdecimal() else None

    @classmethod
    def load(cls, folder: Path, *, run: Path | None = None) -> ExportedRecommender:
        """Open the artefact in `folder`.

        Args:
            folder: such as `runs/x/export/onnx`.
            run: the run that it came from, for the intents of known sessions.

        Raises:
            StoreError: files are missing, damaged or do not belong together.
        """
        opened = cls(Artefact.open(folder), folder=folder)
        if run is not None and opened.artefact.intent_mode == "intents":
            from llm4sbr.data.prepared import catalogue_hash, load
            from llm4sbr.serving.intents import live_intents

            prepared = load(run / "prepare")
            if catalogue_hash(prepared.catalogue) != opened.artefact.record["catalogue"]:
                raise StoreError(f"{folder}: exported for another catalogue than {run} has now; export again")
            opened.live = live_intents(run, opened.variant, prepared)
        return opened

    def recommend(
        self,
        session: str | Sequence[str | int],
        *,
        k: int | None = None,
        exclude_seen: bool | None = None,
        source: str = "auto",
        unknown: str = "skip",
        only: Sequence[str | int] | None = None,
        without: Sequence[str | int] = (),
        where: str | Sequence[str] = (),
        attributes: bool = False,
    ) -> Recommendation:
        """The k best next items; arguments and errors as in `Recommender.recommend`.

        A k longer than the list that was exported is an error, too; without a k, 10 items or the whole list.
        """
        self.check(k, source, unknown)
        chosen = self._chosen(Choice.of(only, without, where), unknown)

        async def resolve(session: Session) -> Understood:
            return resolve_session(session, self.titles, unknown=unknown)

        async def intents(ids: list[int]) -> tuple[NDArray[Any] | None, Explanation | None]:
            if self.predicted is not None:
                return None, self.predicted.explain(ids)
            return self._intents(ids, source)

        answerer = self._answerer(resolve, intents, self._best)
        excluded = self._excluded(exclude_seen)
        return at_once(
            answer(
                answerer,
                session,
                k=self._length(k),
                exclude_seen=excluded,
                allowed=chosen,
                described=attributes,
            )
        )

    def recommend_all(
        self,
        sessions: Iterable[str | Sequence[str | int]],
        *,
        k: int | None = None,
        exclude_seen: bool | None = None,
        source: str = "auto",
        unknown: str = "skip",
        only: Sequence[str | int] | None = None,
        without: Sequence[str | int] = (),
        where: str | Sequence[str] = (),
        attributes: bool = False,
        each: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Recommendation | InputError]:
        """The lists of many sessions, as `Recommender.recommend_all`."""
        self.check(k, source, unknown)
        chosen = Chooser(self.filters, Choice.of(only, without, where), each, unknown)
        titles = self.titles.as_written()

        async def resolve(session: Session) -> Understood:
            return resolve_session(session, titles, unknown=unknown)

        async def intents(ids: list[int]) -> tuple[NDArray[Any] | None, Explanation | None]:
            return self._intents(ids, source)

        async def best(clicks: Clicks, intents: Any, k: int) -> Sequence[tuple[int, float]]:
            return await Wanted(clicks, intents, k)

        answerer, excluded = self._answerer(resolve, intents, best), self._excluded(exclude_seen)
        compute = lambda wanted: in_batches(wanted, self.artefact.num_items, self._lists)  # noqa: E731
        about: dict[str, Any] = {"k": self._length(k), "exclude_seen": excluded, "described": attributes}
        return answer_all(answerer, sessions, compute, chosen=chosen, **about)

    @property
    def fingerprint(self) -> str:
        """What decides the lists: changes with the model and with the intents that are at hand."""
        stored = self.live.intents.manifest if self.live else None
        about = (self.artefact.record["files"], self.artefact.provider, stored)
        return store.fingerprint([*about, self.filters.fingerprint])

    def check(self, k: int | None, source: str, unknown: str = "skip") -> None:
        """Raise `InputError` if this artefact cannot give k items, or intents from `source`."""
        mode, longest = self.artefact.intent_mode, self.artefact.k
        check(k, source, unknown, takes_intents=mode in ("intents", "predictor"))
        if k is not None and k > longest:
            raise InputError(f"k = {k}: the exported list has {longest} items; export with a larger -k")
        if mode == "predictor" and source not in ("auto", self.artefact.source):
            does = "looks its intents up" if self.artefact.source == "items" else "predicts its intents"
            raise InputError(f"source = {source!r}: this artefact {does}; export with another --intents")
        if mode == "intents" and source == "predictor":
            raise InputError(
                "source = 'predictor': this artefact takes intents; export with --intents predictor"
            )

    def _answerer(self, resolve: Any, intents: Any, best: Any) -> Answerer:
        artefact = self.artefact
        engine = f"{artefact.record.get('kind', 'onnx')}, {artefact.provider}"
        about = (self.catalogue, artefact.max_length, self.variant, self.seed, engine)
        return Answerer(*about, resolve, intents, best, artefact.attributes)

    def _chosen(self, choice: Choice | None, unknown: str) -> Allowed | None:
        return None if choice is None else self.filters.allowed(choice, unknown=unknown)

    def _length(self, k: int | None) -> int:
        return k or min(LENGTH, self.artefact.k)

    def _excluded(self, exclude_seen: bool | None) -> bool:
        return self.artefact.exclude_seen if exclude_seen is None else exclude_seen

    async def _best(self, clicks: Clicks, intents: NDArray[Any] | None, k: int) -> list[tuple[int, float]]:
        return self._lists([Wanted(clicks, intents, k)])[0]

    def _lists(self, wanted: list[Wanted]) -> list[list[tuple[int, float]]]:
        clicks = padded(wanted)
        exclude = np.full((len(wanted), 1), clicks.exclude_seen)
        intents = None
        if self.artefact.intent_mode == "intents":
            nothing = np.zeros((1, len(self.artefact.perspectives), self.artefact.text_dim), np.float32)
            intents = np.concatenate([nothing if one.intents is None else one.intents for one in wanted])
        ids, scores = self.artefact.run(clicks.items, clicks.mask, exclude, intents, clicks.allowed)
        rows = zip(wanted, ids.tolist(), scores.tolist(), strict=True)
        return [list(zip(best[: one.k], those[: one.k], strict=True)) for one, best, those in rows]

    def _intents(self, ids: list[int], source: str) -> tuple[NDArray[Any] | None, Explanation | None]:
        """Intents float32 (1, P, E) and their source, without an explanation of predicted ones."""
        if self.artefact.intent_mode == "predictor":
            return None, Explanation(self.artefact.source)
        if self.artefact.intent_mode != "intents":
            return None, None
        if self.live is not None:
            from llm4sbr.serving.intents import tried

            for one in tried(source):
                found = self.live.find(ids, one)
                if found:
                    return found[0].numpy(), found[1]
        return None, Explanation("none")


def is_artefact(folder: Path) -> bool:
    """Whether a folder has an exported model."""
    return (folder / RECORD).exists()
