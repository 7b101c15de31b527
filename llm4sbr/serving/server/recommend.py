"""The route `/recommend`: sessions of ids, keys or titles in plain JSON, lists with titles."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import numpy as np
from numpy.typing import NDArray

from llm4sbr.serving.answering import Answerer, Clicks, answer
from llm4sbr.serving.filters import Filters
from llm4sbr.serving.recommendation import LENGTH, Described, recommended
from llm4sbr.serving.server import choosing
from llm4sbr.serving.server.batching import PendingRequest
from llm4sbr.serving.server.choosing import Chosen
from llm4sbr.serving.server.http import Refusal, Reply, reply_json
from llm4sbr.serving.server.models import Model
from llm4sbr.serving.server.served import Served
from llm4sbr.serving.server.settings import Settings

LONGEST = 200
"""Maximum length of a title or a search text in characters."""


FIELDS = ("session", "exclude_seen", "explain", "attributes", *choosing.FIELDS, "model", "sticky_key")
"""What a request may hold."""


class RecommendRequest(NamedTuple):
    """A request for recommendations."""

    session: list[str | int]
    chosen: Chosen
    exclude_seen: bool
    explain: bool
    """Also explain predicted intents, which compares them with every title."""
    attributes: bool
    """Also tell the items' attributes."""


def read(given: dict[str, Any], model: Model, settings: Settings) -> RecommendRequest:
    """`{"session": [...], "exclude_seen": true, "explain": false, "attributes": false}`, and `choosing`'s.

    `model` and `sticky_key` have done their part when the model is chosen, see `Served.choose`.

    Raises:
        Refusal: 400, and what is wrong where.
    """
    others = given.keys() - set(FIELDS)
    if others:
        raise Refusal(400, f"{min(others)!r:.60}: unknown; there are {', '.join(FIELDS)}")
    chosen = choosing.read(given, model.artefact, k=min(LENGTH, model.artefact.k))
    unsaid = {"exclude_seen": model.artefact.exclude_seen, "explain": False, "attributes": False}
    flags = {name: given.get(name, default) for name, default in unsaid.items()}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise Refusal(400, f"{name}: expected true or false")
    return RecommendRequest(_session(given.get("session"), settings), chosen, **flags)


async def recommend(request: RecommendRequest, model: Model, name: str) -> Reply:
    """The list, the session as it was recognised, and the source of its intents.

    Only the last clicks go into the model, as many as it was trained with. With `exclude_seen` none of the
    session's items is in the list, earlier ones included.
    """
    known = model.known
    answerer = Answerer(
        model.lookup.catalogue,
        model.artefact.max_length,
        known.trained,
        known.seed,
        model.engine,
        partial(model.lookup.resolve, unknown=request.chosen.unknown),
        partial(model.intents, explain=request.explain),
        partial(_best, model),
        model.artefact.attributes,
    )
    found = await answer(
        answerer,
        request.session,
        k=request.chosen.k,
        exclude_seen=request.exclude_seen,
        allowed=await model.allowed(request.chosen),
        described=request.attributes,
    )
    return reply_json({"model": name, "model_name": name, "version": model.version} | vars(found))


async def _best(
    model: Model, clicks: Clicks, intents: NDArray[Any] | None, k: int
) -> list[tuple[int, float]]:
    exclude = np.full((1, 1), clicks.exclude_seen)
    job = PendingRequest(clicks.items, clicks.mask, exclude, intents, allowed=clicks.allowed)
    found = await model.batcher.submit(job)
    return list(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True))


def parse_query(query: bytes) -> dict[str, str]:
    """The first value of every name; `Refusal` 400 if the query is none."""
    try:
        found = parse_qs(query.decode("ascii"), errors="strict", max_num_fields=4)
    except ValueError:
        raise Refusal(400, "search: expected percent-encoded UTF-8") from None
    return {name: values[0] for name, values in found.items()}


async def search(query: Mapping[str, str], model: Model, name: str) -> Reply:
    """`?search=key, title or attribute`: the first items that match, see `Lookup.search`."""
    text = query.get("search", "")
    if len(text) > LONGEST:
        raise Refusal(400, f"search: longer than {LONGEST} characters")
    artefact = model.artefact
    told = await model.lookup.apart(model.lookup.search, text)
    described = recommended(model.lookup.catalogue, [(id, 0.0) for id in told], artefact.attributes)
    found = [
        {"id": one.id, "key": one.key, "title": one.title, "attributes": one.attributes, "by": told[one.id]}
        for one in described
        if isinstance(one, Described)
    ]
    return reply_json({"model_name": name, "items": found})


async def filters(query: bytes, served: Served) -> Reply:
    """`?model=NAME`: what lists of a model can be filtered by: named filters and attributes."""
    asked = parse_query(query)
    models = served.named(asked["model"]) if "model" in asked else served.answering[0]
    model = models.current
    told = await model.lookup.apart(Filters.about, model.filters)
    return reply_json({"model_name": models.name, "version": model.version} | told)


def _session(given: object, settings: Settings) -> list[str | int]:
    if not isinstance(given, list):
        raise Refusal(400, "session: expected a list of ids, keys or titles, oldest first")
    if not given:
        raise Refusal(400, "session: empty; give at least one item")
    if len(given) > settings.max_session:
        raise Refusal(400, f"session: {len(given)} items, at most {settings.max_session} are allowed")
    for place, one in enumerate(given):
        if (type(one) is str and 1 <= len(one) <= LONGEST) or type(one) is int:
            continue
        raise Refusal(
            400, f"session: item {place}: expected an id, or a key or title of 1 to {LONGEST} characters"
        )
    return given
