"""Recommends with a trained model of a run, computed by PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr import stamps, store
from llm4sbr.config.in_force import check_readable
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import InputError
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.fusion.saved import SavedModel
from llm4sbr.intents.texts import items_of
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
from llm4sbr.serving.filters import Allowed, Choice, Chooser, Filters
from llm4sbr.serving.intents import LiveIntents, explain_predicted, live_intents, same_catalogue, tried
from llm4sbr.serving.newcomers import Newcomers, attributes_of
from llm4sbr.serving.recommendation import TIED, Explanation, Recommendation, check
from llm4sbr.serving.titles import TitleIndex, Understood, resolve_session
from llm4sbr.training.linear import Opened, open_model
from llm4sbr.training.trained import Trained

__all__ = ["Recommendation", "Recommender"]


class Recommender:
    """A trained model with the data it needs; load it with `Recommender.load`.

    Args:
        prepared: the run's data.
        saved: a model trained on its catalogue.
        live: finds stored intents; None if there are none.
        trained: which of the run's models it is.
        vectors: the titles' text vectors, float32 (N, E) at unit length, to explain predicted intents
            by; (0, E) if they are gone.
        newcomers: items that were added to its catalogue or taken out since; None if there are none.
    """

    def __init__(
        self,
        prepared: Prepared,
        saved: SavedModel,
        *,
        live: LiveIntents | None,
        trained: Trained,
        vectors: Tensor,
        newcomers: Newcomers | None = None,
    ) -> None:
        self.prepared = prepared
        self.model: LLM4SBR = saved.model
        self._opened = Opened(trained, saved)
        self.perspectives = saved.recipe.perspectives
        self.live = live
        self.trained = trained
        self.vectors = vectors
        self.newcomers = newcomers
        self.titles = TitleIndex(self.catalogue)
        self.filters = Filters(self.titles, newcomers.attributes if newcomers else attributes_of(prepared))
        every = prepared.samples.values()
        self.longest = max(int((one.end - one.start).max()) for one in every if len(one.key))
        """Maximum number of clicks used, the longest prefix in the data; earlier ones are ignored."""

    @classmethod
    def load(
        cls,
        run: Path,
        *,
        variant: str | None = None,
        seed: int | None = None,
        refitted: bool | None = None,
    ) -> Recommender:
        """The model of a finished run.

        Args:
            run: the run directory.
            variant: which of its models, or a linear baseline; by default the best on
                validation.
            seed: which seed; by default the best on validation.
            refitted: its refit on all sessions or not; by default if there is one.

        Raises:
            InputError: there is no such variant or seed.
            StoreError: there is no such run, nothing is trained yet, or files are damaged or do not
                belong together.
        """
        check_readable(run)
        with stamps.naming_command(run):
            prepared = load(run / "prepare")
            opened = open_model(run, prepared, variant=variant, seed=seed, refitted=refitted)
            return cls._of(run, prepared, opened)

    @classmethod
    def _of(cls, run: Path, prepared: Prepared, opened: Opened) -> Recommender:
        trained, saved = opened
        same_catalogue(prepared, saved.catalogue, trained.folder)
        live = live_intents(run, trained.variant, prepared) if saved.recipe.fuser else None
        path = items_of(run / "localize", trained.variant)
        vectors = (
            store.read_tensors(path)["items"] if path.exists() else torch.zeros(0, saved.recipe.text_dim)
        )
        new = Newcomers.of(run, opened.fingerprint(prepared), prepared)
        vectors = normalize(vectors, dim=1)
        return cls(prepared, saved, live=live, trained=trained, vectors=vectors, newcomers=new)

    @property
    def catalogue(self) -> Catalogue:
        """The items that can be recommended."""
        return self.newcomers.catalogue if self.newcomers else self.prepared.catalogue

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
        """The k best next items.

        Args:
            session: keys, titles or catalogue ids (int), oldest first, or one text of them (`parse_session`).
            k: at most so many items; by default 10.
            exclude_seen: leave out what is in the session; by default as the model was trained and tested.
            source: the only place to take intents from, one of `SOURCES`; `auto` takes the first of them that
                has something.
            unknown: `skip` leaves out items that the model does not know, and lists the items with most
                clicks if it knows none; `fail` refuses the session.
            only: keys, titles or ids of the only items that may be in the list.
            without: those of items that may not.
            where: conditions on items, such as `price <= 30` (`serving.conditions` has the grammar).
            attributes: tell the items' attributes.

        Raises:
            InputError: an empty session, an unknown or ambiguous title, k below 1, an unknown source, or one
                that this model cannot have; an unknown attribute or filter, or an invalid condition.
        """
        self.check(k, source, unknown)
        chosen = self._chosen(Choice.of(only, without, where), unknown)

        async def resolve(session: Session) -> Understood:
            return resolve_session(session, self.titles, unknown=unknown)

        async def intents(ids: list[int]) -> tuple[Tensor | None, Explanation | None]:
            return self.intents(self._known(ids), source)

        answerer = self._answerer(resolve, intents, self._best)
        excluded = self._excluded(exclude_seen)
        return at_once(
            answer(answerer, session, k=k, exclude_seen=excluded, allowed=chosen, described=attributes)
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
        """The lists of many sessions, computed in batches; an invalid session's error in its place.

        Lists are those of `recommend`, with two differences, both for speed: items are recognised as they
        are written (a key, or a title but for letter case, year and article), not if they are misspelt, and
        intents are not explained.

        Args:
            sessions: each as for `recommend`, like all other arguments.
            k: length of the lists.
            exclude_seen: leave out what is in the session.
            source: where intents come from.
            unknown: what to do with unknown items.
            only: the only items for all lists.
            without: items for none of them.
            where: conditions for all lists.
            attributes: tell the items' attributes.
            each: `only`, `without` and `where` of every session, which take the place of those for all.

        Raises:
            InputError: an argument other than a session is invalid.
        """
        self.check(k, source, unknown)
        chosen = Chooser(self.filters, Choice.of(only, without, where), each, unknown)
        titles = self.titles.as_written()

        async def resolve(session: Session) -> Understood:
            return resolve_session(session, titles, unknown=unknown)

        async def intents(ids: list[int]) -> tuple[Tensor | None, Explanation | None]:
            return self._stored(self._known(ids), source)

        async def best(clicks: Clicks, intents: Any, k: int) -> Sequence[tuple[int, float]]:
            return await Wanted(clicks, intents, k)

        answerer, excluded = self._answerer(resolve, intents, best), self._excluded(exclude_seen)
        predict = self.model.own_source in tried(source)
        lists = lambda wanted: self._lists(wanted, predict=predict)  # noqa: E731
        compute = lambda wanted: in_batches(wanted, self.catalogue.size, lists)  # noqa: E731
        about: dict[str, Any] = {"k": k, "exclude_seen": excluded, "described": attributes}
        return answer_all(answerer, sessions, compute, chosen=chosen, **about)

    @property
    def fingerprint(self) -> str:
        """What decides the lists: changes with the model and with the intents that are at hand."""
        stored = self.live.intents.manifest if self.live else None
        parts = [self._opened.fingerprint(self.prepared), stored, self.filters.fingerprint]
        return store.fingerprint([*parts, self.newcomers.digest] if self.newcomers else parts)

    def check(self, k: int | None, source: str, unknown: str = "skip") -> None:
        """Raise `InputError` if this model cannot give k items, or intents from `source`."""
        check(k, source, unknown, takes_intents=bool(self.live or self.model.predictor))
        own = self.model.own_source
        if source == "predictor" and own == "items":
            raise InputError("source = 'predictor': this model has the answers about all items; take 'items'")
        if source == "predictor" and own is None:
            raise InputError("source = 'predictor': this model was trained without one; train it again")
        if source == "items" and own != "items":
            raise InputError(
                "source = 'items': the LLM was asked about sessions; choose perspectives that ask about items"
            )

    def _answerer(self, resolve: Any, intents: Any, best: Any) -> Answerer:
        trained = self.trained
        about = (self.catalogue, self.longest, trained.variant, trained.seed, "pytorch")
        return Answerer(*about, resolve, intents, best, self.filters.attributes)

    def _chosen(self, choice: Choice | None, unknown: str) -> Allowed | None:
        return None if choice is None else self.filters.allowed(choice, unknown=unknown)

    def _excluded(self, exclude_seen: bool | None) -> bool:
        return not self.prepared.repeats if exclude_seen is None else exclude_seen

    def _known(self, ids: list[int]) -> list[int]:
        """The clicks that the model reads."""
        return self.newcomers.known(ids) if self.newcomers else ids

    async def _best(self, clicks: Clicks, intents: Tensor | None, k: int) -> list[tuple[int, float]]:
        return self._computed([Wanted(clicks, intents, k)], intents)[0]

    def _lists(self, wanted: list[Wanted], *, predict: bool) -> list[list[tuple[int, float]]]:
        """Lists of a batch; where a session has no intents, the model predicts some if it may."""
        given = [row for row, one in enumerate(wanted) if one.intents is not None]
        others = [row for row, one in enumerate(wanted) if one.intents is None]
        found: dict[int, list[tuple[int, float]]] = {}
        if given:
            part = [wanted[row] for row in given]
            intents = torch.cat([one.intents for one in part])
            found |= zip(given, self._computed(part, intents), strict=True)
        if others:
            part = [wanted[row] for row in others]
            found |= zip(others, self._computed(part, None, predict=predict), strict=True)
        return [found[row] for row in range(len(wanted))]

    @torch.no_grad()
    def _computed(
        self, wanted: list[Wanted], intents: Tensor | None, *, predict: bool = False
    ) -> list[list[tuple[int, float]]]:
        """The lists of sessions with intents float32 (B, P, E), or with those that the model predicts."""
        clicks = padded(wanted)
        items, mask = torch.from_numpy(clicks.items), torch.from_numpy(clicks.mask)
        read, kept = self.newcomers.read(items, mask) if self.newcomers else (items, mask)
        width = int(kept.sum(1).max())
        compute = partial(self.newcomers.scores, self.model) if self.newcomers else self.model
        scores = compute(torch.where(kept, read, 0)[:, :width], kept[:, :width], intents, predict=predict)
        if clicks.allowed is not None:
            scores = scores + torch.from_numpy(clicks.allowed)
        if clicks.exclude_seen:
            items = torch.cat([items, read], 1)  # a known item that stands for a new one is no news either
            own = torch.where(items > 0, items, items[:, :1]) - 1  # padding repeats the first click
            scores = scores.scatter(1, own, -torch.inf)
        best = scores.topk(min(max(one.k for one in wanted), scores.shape[1]))
        rows = zip(wanted, (best.indices + 1).tolist(), best.values.tolist(), strict=True)
        return [
            [
                (id, score)
                for id, score in zip(ids[: one.k], values[: one.k], strict=True)
                if score > -torch.inf
            ]
            for one, ids, values in rows
        ]

    def _stored(self, ids: Sequence[int], source: str) -> tuple[Tensor | None, Explanation | None]:
        """Stored intents float32 (1, P, E) of the first source that has some, unexplained, and the source.

        None where the model predicts them, or there are none.
        """
        if self.live is None and self.model.predictor is None:
            return None, None
        for one in tried(source):
            row = self.live.row(ids, one) if self.live else -1
            if self.live and row >= 0:
                return self.live.vectors(row), Explanation(one)
            if one == self.model.own_source:
                return None, Explanation(one)
        return None, Explanation("none")

    @torch.no_grad()
    def intents(self, ids: Sequence[int], source: str) -> tuple[Tensor | None, Explanation | None]:
        """Intents float32 (1, P, E) of the first source that has some, and the source's name.

        Args:
            ids: catalogue ids, oldest first, not empty, no more than `longest`.
            source: as for `recommend`.
        """
        if self.live is None and self.model.predictor is None:
            return None, None
        items = torch.tensor([ids])
        mask = torch.ones_like(items, dtype=torch.bool)
        for one in tried(source):
            found = self.live.find(ids, one) if self.live else None
            if found:
                return found
            if one == self.model.own_source:
                predicted = self.model.predict(self.model.backbone(items, mask), items, mask)
                explained = explain_predicted(
                    predicted, self.perspectives, self.catalogue, self.vectors, f=TIED, source=one
                )
                return predicted, explained
        return None, Explanation("none")
