"""From what a user typed to a recommendation: the same steps for every kind of model.

A PyTorch model, an exported model and the server all use `answer`. They differ in how a list is computed and
where intents come from, which they pass as an `Answerer`. The server must wait for title searches, so
`answer` is a coroutine; `at_once` runs it where nothing waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from llm4sbr.protocols import Catalogue
from llm4sbr.serving.recommendation import LENGTH, Explanation, Recommendation, recommended
from llm4sbr.serving.titles import Understood

Found = TypeVar("Found")
Session = str | Sequence[str | int]


class Clicks(NamedTuple):
    """One session in the form of a model's input.

    Clicks that are too old for the model stand behind the others, where the mask is false: the model does not
    read them, and they are left out of the list like all the others.
    """

    items: NDArray[np.int64]
    """int64 (1, T)."""
    mask: NDArray[np.bool_]
    """bool (1, T), true at the clicks that are used."""
    exclude_seen: bool
    """Whether to exclude the session's items from the list."""


class Answerer(NamedTuple):
    """What `answer` needs from a model."""

    catalogue: Catalogue
    longest: int
    """Maximum number of clicks used; earlier ones are ignored, as in `prepare`."""
    variant: str
    seed: int | None
    engine: str
    resolve: Callable[[Session], Awaitable[Understood]]
    """The items of a session."""
    intents: Callable[[list[int]], Awaitable[tuple[Any, Explanation | None]]]
    """Intents for the clicks that are used, in the model's own form, and their source."""
    best: Callable[[Clicks, Any, int], Awaitable[Sequence[tuple[int, float]]]]
    """At least the k best items with their scores, best first; fewer if there are not as many.

    A list that was exported may be longer than k, and ends with id 0 where no items are left.
    """


async def answer(
    model: Answerer, session: Session, *, k: int | None = None, exclude_seen: bool = True
) -> Recommendation:
    """Recommend the k best items; fewer only if the catalogue does not have as many.

    Args:
        model: the model.
        session: item keys, titles or catalogue ids (int), oldest first, or one text with them.
        k: by default `LENGTH`, or the length of the model's lists.
        exclude_seen: exclude the session's items, including those that are too old for the model.

    Raises:
        InputError: an empty session, an ambiguous title, or an unknown one that is not left out.
    """
    understood = await model.resolve(session)
    ids = [one.id for one in understood.items]
    recent = ids[-model.longest :]
    older = sorted(set(ids) - set(recent)) if exclude_seen else []
    intents, explained = await model.intents(recent)
    wanted = k or LENGTH
    found = await _list(model, _clicks(recent, [], exclude_seen), intents, wanted + len(older))
    kept = [pair for pair in found if pair[0] not in older]
    if len(kept) < wanted and len(kept) < len(found):  # rare: compute a longer list only now
        kept = await _list(model, _clicks(recent, older, exclude_seen), intents, wanted)
    items = recommended(model.catalogue, kept[:wanted])
    return Recommendation(
        items, understood.items, model.variant, model.seed, explained, model.engine, understood.left_out
    )


def _clicks(recent: list[int], older: list[int], exclude_seen: bool) -> Clicks:
    items = np.array([recent + older], np.int64)
    return Clicks(items, np.arange(items.shape[1])[None] < len(recent), exclude_seen)


async def _list(model: Answerer, clicks: Clicks, intents: Any, k: int) -> list[tuple[int, float]]:
    return [pair for pair in await model.best(clicks, intents, k) if pair[0]]


def at_once(steps: Coroutine[Any, Any, Found]) -> Found:
    """The result of a coroutine that never waits."""
    try:
        steps.send(None)
    except StopIteration as done:
        found: Found = done.value
        return found
    steps.close()
    raise RuntimeError("a step waited; run it in an event loop")
