"""Recommends with a trained model of a run, computed by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr import stamps, store
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.fusion.saved import SavedModel
from llm4sbr.intents import MANIFEST, IntentStore
from llm4sbr.intents.texts import items_of
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.answering import Answerer, Clicks, Session, answer, at_once
from llm4sbr.serving.intents import LiveIntents, explain_predicted, tried
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
    """

    def __init__(
        self,
        prepared: Prepared,
        saved: SavedModel,
        *,
        live: LiveIntents | None,
        trained: Trained,
        vectors: Tensor,
    ) -> None:
        self.prepared = prepared
        self.model: LLM4SBR = saved.model
        self.perspectives = saved.recipe.perspectives
        self.live = live
        self.trained = trained
        self.vectors = vectors
        self.titles = TitleIndex(prepared.catalogue)
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
        stamps.check_there(run)
        with stamps.naming_command(run):
            prepared = load(run / "prepare")
            opened = open_model(run, prepared, variant=variant, seed=seed, refitted=refitted)
            return cls._of(run, prepared, opened)

    @classmethod
    def _of(cls, run: Path, prepared: Prepared, opened: Opened) -> Recommender:
        trained, saved = opened
        _same_catalogue(prepared, saved.catalogue, trained.folder)
        live = live_intents(run, trained.variant, prepared) if saved.recipe.fuser else None
        path = items_of(run / "localize", trained.variant)
        vectors = (
            store.read_tensors(path)["items"] if path.exists() else torch.zeros(0, saved.recipe.text_dim)
        )
        return cls(prepared, saved, live=live, trained=trained, vectors=normalize(vectors, dim=1))

    @property
    def catalogue(self) -> Catalogue:
        """The items that can be recommended."""
        return self.prepared.catalogue

    def recommend(
        self,
        session: str | Sequence[str | int],
        *,
        k: int | None = None,
        exclude_seen: bool | None = None,
        source: str = "auto",
        unknown: str = "skip",
    ) -> Recommendation:
        """The k best next items.

        Args:
            session: keys, titles or catalogue ids (int), oldest first, or one text of them (`parse_session`).
            k: at most so many items; by default 10.
            exclude_seen: leave out what is in the session; by default as the model was trained and tested.
            source: the only place to take intents from, one of `SOURCES`; `auto` takes the first of them that
                has something.

            unknown: `skip` leaves out items that the model does not know, as long as it knows one; `fail`
                refuses the session.

        Raises:
            InputError: an empty session, an unknown or ambiguous title, k below 1, an unknown source, or one
                that this model cannot have.
        """
        self.check(k, source, unknown)
        exclude_seen = not self.prepared.repeats if exclude_seen is None else exclude_seen

        async def resolve(session: Session) -> Understood:
            return resolve_session(session, self.titles, unknown=unknown)

        async def intents(ids: list[int]) -> tuple[Tensor | None, Explanation | None]:
            return self.intents(ids, source)

        trained = self.trained
        answerer = Answerer(
            self.catalogue,
            self.longest,
            trained.variant,
            trained.seed,
            "pytorch",
            resolve,
            intents,
            self._best,
        )
        return at_once(answer(answerer, session, k=k, exclude_seen=exclude_seen))

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

    @torch.no_grad()
    async def _best(self, clicks: Clicks, intents: Tensor | None, k: int) -> list[tuple[int, float]]:
        items, mask = torch.from_numpy(clicks.items), torch.from_numpy(clicks.mask)
        scores = self.model(items[mask][None], mask[mask][None], intents)[0]
        if clicks.exclude_seen:
            scores[items[0] - 1] = -torch.inf
        best = scores.topk(min(k, int(scores.isfinite().sum())))
        return list(zip((best.indices + 1).tolist(), best.values.tolist(), strict=True))

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


def live_intents(run: Path, variant: str, prepared: Prepared) -> LiveIntents | None:
    """The stored intents of a run's variant; None if it has none.

    Raises:
        StoreError: they were made for another catalogue.
    """
    folder = run / "localize" / variant
    if not (folder / MANIFEST).exists():
        return None
    intents = IntentStore.open(folder)
    _same_catalogue(prepared, intents.catalogue_hash, folder)
    return LiveIntents(intents, prepared, run / "infer" / variant)


def _same_catalogue(prepared: Prepared, found: str, folder: Path) -> None:
    if found != catalogue_hash(prepared.catalogue):
        raise StoreError(f"{folder}: made for another catalogue than prepare has now; run its stage again")
