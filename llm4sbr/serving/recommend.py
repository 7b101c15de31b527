"""Recommendations of a finished run for one live session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llm4sbr import store
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.fusion.model import LLM4SBR
from llm4sbr.fusion.saved import RECORD, load_model
from llm4sbr.intents import MANIFEST, IntentStore
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.intents import SOURCES, Explanation, LiveIntents
from llm4sbr.serving.titles import Resolved, Titles, parse_session

__all__ = ["Recommendation", "Recommended", "Recommender", "parse_session"]

SELECT_BY = "MRR@20"
"""Validation metric by which a seed, and a variant where there is no LLM's, is chosen."""


@dataclass(frozen=True)
class Recommended:
    """One recommended item."""

    id: int
    key: str
    title: str
    score: float


@dataclass(frozen=True)
class Recommendation:
    """A list of items, and how it came about."""

    items: list[Recommended]
    """Best first."""
    session: list[Resolved]
    """The session as it was understood."""
    variant: str
    seed: int
    intents: Explanation | None
    """Where the intents came from; None if the model takes none."""

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and dictionaries, for JSON."""
        return asdict(self)


class Trained(NamedTuple):
    """A trained model that a run has."""

    variant: str
    seed: int
    valid: float
    """`SELECT_BY` on the validation part, -1 if it has none."""
    folder: Path


class Recommender:
    """A trained model together with what it needs to answer; made by `Recommender.load`.

    Args:
        prepared: the run's data.
        model: trained on its catalogue, in evaluation mode.
        live: where intents come from; None for a model without them.
        trained: which of the run's models it is.
    """

    def __init__(
        self, prepared: Prepared, model: LLM4SBR, *, live: LiveIntents | None, trained: Trained
    ) -> None:
        self.prepared = prepared
        self.model = model
        self.live = live
        self.trained = trained
        self.titles = Titles(prepared.catalogue)
        every = prepared.samples.values()
        self.longest = max(int((one.end - one.start).max()) for one in every if len(one.key))
        """Clicks that count, the longest prefix in the data; earlier ones are left out as `prepare` does."""

    @classmethod
    def load(cls, run: Path, *, variant: str | None = None, seed: int | None = None) -> Recommender:
        """The model of a finished run.

        Args:
            run: the run directory.
            variant: which of its models; by default `llm`, or the best on validation if there is none.
            seed: which seed; by default the best on validation.

        Raises:
            InputError: there is no such variant or seed.
            StoreError: nothing is trained yet, or files are damaged or do not belong together.
        """
        trained = choose(trained_models(run), variant=variant, seed=seed)
        prepared = load(run / "prepare")
        saved = load_model(trained.folder)
        live, folder = None, run / "localize" / trained.variant
        _same_catalogue(prepared, saved.catalogue, trained.folder)
        if saved.recipe.fuser and (folder / MANIFEST).exists():
            intents = IntentStore.open(folder)
            _same_catalogue(prepared, intents.catalogue_hash, folder)
            live = LiveIntents(intents, prepared, run / "infer" / trained.variant)
        return cls(prepared, saved.model, live=live, trained=trained)

    @property
    def catalogue(self) -> Catalogue:
        """The items that can be recommended."""
        return self.prepared.catalogue

    def recommend(
        self,
        session: str | Sequence[str | int],
        *,
        k: int = 10,
        exclude_seen: bool = True,
        intents: str = "auto",
    ) -> Recommendation:
        """The k best items to come next.

        Args:
            session: keys, titles or catalogue ids (int), oldest first, or one text of them (`parse_session`).
            k: at most so many items.
            exclude_seen: leave out what is in the session.
            intents: where to look for intents, see `LiveIntents.find`.

        Raises:
            InputError: an empty session, an unknown or ambiguous title, k below 1, or unknown `intents`.
        """
        given = parse_session(session, self.catalogue) if isinstance(session, str) else list(session)
        if not given:
            raise InputError("the session is empty; give at least one title or key")
        if k < 1:
            raise InputError(f"k = {k}: expected a list of at least 1 item")
        if intents not in ("auto", *SOURCES):
            raise InputError(f"intents = {intents!r}: expected auto, {', '.join(SOURCES)}")
        resolved = [self.titles.resolve(item) for item in given]
        ids = [item.id for item in resolved]
        scores, explained = self._score(ids[-self.longest :], intents)
        if exclude_seen:
            scores[torch.tensor(ids) - 1] = -torch.inf
        best = scores.topk(min(k, int(scores.isfinite().sum())))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found = [(self.catalogue.item(row + 1), score) for row, score in pairs]
        items = [Recommended(item.id, item.key, item.title, score) for item, score in found]
        return Recommendation(items, resolved, self.trained.variant, self.trained.seed, explained)

    def _score(self, ids: list[int], source: str) -> tuple[torch.Tensor, Explanation | None]:
        """Scores float (N,) and where the intents behind them came from."""
        items = torch.tensor([ids])
        vectors, explained = self.live.find(ids, source) if self.live else (None, None)
        with torch.no_grad():
            scores: torch.Tensor = self.model(items, torch.ones_like(items, dtype=torch.bool), vectors)
        return scores[0], explained


def trained_models(run: Path) -> list[Trained]:
    """All trained models of a run, by variant and seed; `StoreError` if there is none."""
    found = []
    for path in run.glob(f"train/*/seed-*/{RECORD}"):
        record = store.read_json(path)
        try:
            valid = record["facts"].get("valid", {}).get(SELECT_BY, -1.0)
            number = int(path.parent.name.removeprefix("seed-"))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise StoreError(f"{path}: not a model record; train again") from None
        found.append(Trained(path.parent.parent.name, number, valid, path.parent))
    if not found:
        raise StoreError(f"{run}: no trained model; run llm4sbr train {run} first")
    return sorted(found)


def choose(models: Sequence[Trained], *, variant: str | None = None, seed: int | None = None) -> Trained:
    """One model: of `variant` or else the LLM's or else any; of `seed` or else the best on validation.

    Raises:
        InputError: there is no such variant or seed.
    """
    variants = list(dict.fromkeys(one.variant for one in models))
    if variant is None:
        variant = "llm" if "llm" in variants else max(models, key=lambda one: one.valid).variant
    if variant not in variants:
        raise InputError(f"no variant {variant!r} is trained; there are {', '.join(variants)}")
    of_variant = [one for one in models if one.variant == variant]
    if seed is None:
        return max(of_variant, key=lambda one: one.valid)
    for one in of_variant:
        if one.seed == seed:
            return one
    seeds = ", ".join(str(one.seed) for one in of_variant)
    raise InputError(f"no seed {seed} of variant {variant!r} is trained; there are {seeds}")


def _same_catalogue(prepared: Prepared, found: str, folder: Path) -> None:
    if found != catalogue_hash(prepared.catalogue):
        raise StoreError(f"{folder}: made for another catalogue than prepare has now; run its stage again")
