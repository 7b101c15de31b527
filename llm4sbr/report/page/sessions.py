"""The page's example sessions: the LLM's answers, the items they were tied to, and both lists.

Lists and ranks are those of the evaluation, with or without the session's own items (`data.repeats`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from llm4sbr.data.batches import Batch, collate
from llm4sbr.data.prepared import Prepared, catalogue_hash
from llm4sbr.data.repeats import without_own
from llm4sbr.errors import StoreError
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.ranking import SampleIntents, scorer
from llm4sbr.evaluation.shown import ShownAnswer, shown_answers
from llm4sbr.fusion.saved import load_model
from llm4sbr.intents import IntentStore
from llm4sbr.protocols import Catalogue
from llm4sbr.report.page.chosen import WITH, K, Ranked, choose, compared, rule


class Listed(NamedTuple):
    """One recommended item."""

    title: str
    target: bool
    """Whether it is the item that was clicked next."""


class Ranking(NamedTuple):
    """One model's recommendations for one session."""

    label: str
    rank: int
    """Rank of the target in the whole catalogue, counted from 1."""
    place: int | None
    """The same without the session's own items; None if the target is one of them."""
    top: list[Listed]


class Shown(NamedTuple):
    """One session of the page."""

    clicks: list[str]
    """Titles, oldest first."""
    target: str
    rankings: list[Ranking]
    answers: list[ShownAnswer]


class SessionGroup(NamedTuple):
    """Test samples for which the same of the compared models succeed or fail."""

    title: str
    size: int
    sessions: list[Shown]


class Page(NamedTuple):
    """The sessions shown, and the rule by which they were chosen."""

    rule: str
    groups: list[SessionGroup]


def sessions_page(run: Path, prepared: Prepared, labels: Mapping[str, str]) -> Page:
    """Choose test sessions by a fixed rule and rank them with the saved models.

    Args:
        run: a run with the stages `train` and `evaluate`; answers are shown if it has `localize` and `infer`.
        prepared: the run's data.
        labels: variant -> its label.

    Raises:
        StoreError: files are missing or do not belong together.
        RegistryError: a component of a model is not installed.
    """
    test = prepared.samples["test"]
    ranked = compared(run, len(test.key))
    folder = run / "localize" / WITH
    intents = None
    if WITH in ranked.ranks:
        intents = SampleIntents.of(IntentStore.open(folder), prepared.sessions, test)
    known = torch.ones_like(test.key, dtype=torch.bool) if intents is None else intents.rows >= 0
    sizes, chosen = choose(ranked.ranks, test.key, known)
    index = torch.cat(list(chosen.values()))
    if not len(index):
        raise StoreError(f"{folder}: no test sample has an answer")
    shown = iter(_sessions(run, prepared, index, ranked=ranked, intents=intents, labels=labels))
    groups = [
        SessionGroup(title, sizes[title], [next(shown) for _ in members]) for title, members in chosen.items()
    ]
    return Page(rule(len(known), None if intents is None else int(known.sum())), groups)


def _sessions(
    run: Path,
    prepared: Prepared,
    index: Tensor,
    *,
    ranked: Ranked,
    intents: SampleIntents | None,
    labels: Mapping[str, str],
) -> list[Shown]:
    """The test samples `index` (int64 (B,)), in that order."""
    catalogue, test = prepared.catalogue, prepared.samples["test"]
    batch = collate(prepared.sessions, test, index)
    rankings = [
        _rankings(
            _scores(run, f"{name}/{ranked.seed}", batch, prepared, intents if name == WITH else None),
            ranks[index],
            batch,
            catalogue,
            label=labels.get(name, name),
        )
        for name, ranks in ranked.ranks.items()
    ]
    answers = shown_answers(run, intents, index, catalogue) if intents else [[] for _ in index]
    return [
        Shown(
            [catalogue.titles[id - 1] for id in prepared.prefix(test, sample)],
            catalogue.titles[int(batch.target[place]) - 1],
            [one[place] for one in rankings],
            answers[place],
        )
        for place, sample in enumerate(index.tolist())
    ]


def _scores(run: Path, name: str, batch: Batch, prepared: Prepared, intents: SampleIntents | None) -> Tensor:
    """A model's scores of the batch, float (B, N); -inf for own items where lists leave them out."""
    saved = load_model(run / "train" / name)
    if saved.catalogue != catalogue_hash(prepared.catalogue):
        raise StoreError(f"{run / 'train' / name}: trained on another catalogue; run train again")
    with torch.inference_mode():
        scores = scorer(saved.model, intents, torch.device("cpu"))(batch)
        return scores if prepared.repeats else without_own(scores, batch.items, batch.mask)


def _rankings(
    scores: Tensor, ranks: Tensor, batch: Batch, catalogue: Catalogue, *, label: str
) -> list[Ranking]:
    best = scores.topk(min(K, catalogue.size))
    tops = [
        [id for id, score in zip(row, values, strict=True) if score > -torch.inf]
        for row, values in zip((best.indices + 1).tolist(), best.values.tolist(), strict=True)
    ]
    places = metrics.ranks(scores, batch.target).tolist()
    repeated = (scores.gather(1, batch.target.unsqueeze(1) - 1)[:, 0] == -torch.inf).tolist()
    return [
        Ranking(
            label,
            rank,
            None if own else place,
            [Listed(catalogue.titles[id - 1], id == target) for id in top],
        )
        for top, rank, place, own, target in zip(
            tops, ranks.tolist(), places, repeated, batch.target.tolist(), strict=True
        )
    ]
