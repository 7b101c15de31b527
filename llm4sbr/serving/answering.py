"""From what a user typed to a recommendation: the same steps for every kind of model.

A PyTorch model, an exported model and the server all use `answer`. They differ in how a list is computed and
where intents come from, which they pass as an `Answerer`. The server must wait for title searches, so
`answer` is a coroutine; `at_once` runs it where nothing waits, and `together` runs many whose lists are
computed in batches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from llm4sbr.errors import InputError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.attributes import Attributes
from llm4sbr.serving.filters import Allowed, Chooser
from llm4sbr.serving.recommendation import LENGTH, Explanation, Recommendation, recommended
from llm4sbr.serving.titles import Understood

Found = TypeVar("Found")
Session = str | Sequence[str | int]

SCORES = 2**24
"""Scores computed at once in a batch of sessions: 64 MB of them, whatever the size of the catalogue."""

POPULAR = "these are the items with most clicks"
"""Note on the list of a session of which nothing is known."""

BATCH = 64
"""Maximum number of sessions in such a batch."""


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
    allowed: NDArray[np.float32] | None = None
    """float32 (1, N), 0 for items that may be in the list, else minus infinity; None if all may."""


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
    attributes: Attributes
    """Of the catalogue; its clicks are the list of a session without known items."""


async def answer(
    model: Answerer,
    session: Session,
    *,
    k: int | None = None,
    exclude_seen: bool = True,
    allowed: Allowed | None = None,
    described: bool = False,
) -> Recommendation:
    """Recommend the k best items; fewer only if the catalogue, or what passes filters, has not as many.

    If nothing in the session is known, they are the items with most clicks.

    Args:
        model: the model.
        session: item keys, titles or catalogue ids (int), oldest first, or one text with them.
        k: by default `LENGTH`, or the length of the model's lists.
        exclude_seen: exclude the session's items, including those that are too old for the model.
        allowed: the items that pass filters; None allows all.
        described: tell the items' attributes.

    Raises:
        InputError: an empty session, an ambiguous title, or an unknown one that is not left out.
    """
    understood = await model.resolve(session)
    notes = [*allowed.notes] if allowed else []
    intents: Explanation | None = None
    variant, seed, kept = model.variant, model.seed, []
    if understood.unknown is not None:
        popular = model.attributes.popular(k or LENGTH, allowed.added if allowed else None)
        if popular is None:
            raise understood.unknown
        kept, variant, seed = popular, "popularity", None
        notes = [str(understood.unknown), POPULAR, *notes]
    elif allowed is None or allowed.passing:
        kept, intents = await _own(model, understood, k or LENGTH, exclude_seen, allowed)
    items = recommended(model.catalogue, kept, model.attributes if described else None)
    passing = allowed.passing if allowed else None
    about = (variant, seed, intents, model.engine, understood.left_out, passing, notes)
    return Recommendation(items, understood.items, *about)


async def _own(
    model: Answerer, understood: Understood, wanted: int, exclude_seen: bool, allowed: Allowed | None
) -> tuple[list[tuple[int, float]], Explanation | None]:
    """The list of a session with known items, and where its intents come from."""
    ids = [one.id for one in understood.items]
    recent = ids[-model.longest :]
    older = sorted(set(ids) - set(recent)) if exclude_seen else []
    intents, explained = await model.intents(recent)
    about = (exclude_seen, allowed.added if allowed else None)
    found = await _list(model, _clicks(recent, [], *about), intents, wanted + len(older))
    kept = [pair for pair in found if pair[0] not in older] if older else found
    if len(kept) < wanted and len(kept) < len(found):  # rare: compute a longer list only now
        kept = await _list(model, _clicks(recent, older, *about), intents, wanted)
    return kept[:wanted], explained


def _clicks(
    recent: list[int], older: list[int], exclude_seen: bool, allowed: NDArray[np.float32] | None
) -> Clicks:
    items = np.array([recent + older], np.int64)
    return Clicks(items, np.arange(items.shape[1])[None] < len(recent), exclude_seen, allowed)


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


class Wanted(NamedTuple):
    """A list that a session waits for, see `Answerer.best`."""

    clicks: Clicks
    intents: Any
    k: int

    def __await__(self) -> Generator[Wanted, Any, Sequence[tuple[int, float]]]:
        """Wait until `together` has computed the list."""
        return (yield self)  # type: ignore[no-any-return]


def answer_all(
    model: Answerer,
    sessions: Iterable[Session],
    compute: Callable[[list[Wanted]], Sequence[Sequence[tuple[int, float]]]],
    *,
    chosen: Chooser,
    k: int | None,
    exclude_seen: bool,
    described: bool,
) -> list[Recommendation | InputError]:
    """What `answer` says to every session; an invalid one's error in its place.

    Args:
        model: with a `best` that awaits a `Wanted`.
        sessions: each as for `answer`.
        compute: the lists that sessions wait for, computed together.
        chosen: what each may have in its list.
        k: as for `answer`, like all others.
        exclude_seen: as for `answer`.
        described: as for `answer`.
    """

    async def steps(number: int, session: Session) -> Recommendation:
        about: dict[str, Any] = {"k": k, "exclude_seen": exclude_seen, "described": described}
        return await answer(model, session, allowed=chosen(number), **about)

    numbered = iter(enumerate(sessions))
    found: list[Recommendation | InputError] = []
    size = max(1, min(BATCH, SCORES // model.catalogue.size)) if chosen.differs else None
    while some := list(islice(numbered, size)):  # a filter of its own takes as much memory as a list's scores
        found += together((steps(*one) for one in some), compute)
    return found


def together(
    sessions: Iterable[Coroutine[Any, Any, Found]],
    compute: Callable[[list[Wanted]], Sequence[Sequence[tuple[int, float]]]],
) -> list[Found | InputError]:
    """The results of coroutines that wait for nothing but lists (`Wanted`); an invalid session's error.

    Args:
        sessions: made by `answer`, with a `best` that awaits a `Wanted`.
        compute: the lists that sessions wait for, computed together.
    """
    running: list[tuple[int, Coroutine[Any, Any, Found], Any]]
    running = [(number, steps, None) for number, steps in enumerate(sessions)]
    found: dict[int, Found | InputError] = {}
    while running:
        waiting: list[tuple[int, Coroutine[Any, Any, Found], Wanted]] = []
        for number, steps, value in running:
            try:
                waiting.append((number, steps, steps.send(value)))
            except StopIteration as done:
                found[number] = done.value
            except InputError as error:
                found[number] = error
        lists = compute([wanted for *_, wanted in waiting]) if waiting else []
        running = [(number, steps, one) for (number, steps, _), one in zip(waiting, lists, strict=True)]
    return [found[number] for number in range(len(found))]


def in_batches(
    wanted: Sequence[Wanted],
    num_items: int,
    compute: Callable[[list[Wanted]], Sequence[Sequence[tuple[int, float]]]],
) -> list[Sequence[tuple[int, float]]]:
    """The lists of sessions of about equal length computed together, as many as memory allows."""
    order = sorted(range(len(wanted)), key=lambda row: wanted[row].clicks.items.shape[1])
    size = max(1, min(BATCH, SCORES // num_items))
    found: dict[int, Sequence[tuple[int, float]]] = {}
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        found |= zip(rows, compute([wanted[row] for row in rows]), strict=True)
    return [found[row] for row in range(len(wanted))]


def padded(wanted: Sequence[Wanted]) -> Clicks:
    """The clicks of several sessions, int64 and bool (B, T); `exclude_seen` is the first session's."""
    length = max(one.clicks.items.shape[1] for one in wanted)
    items, mask = np.zeros((len(wanted), length), np.int64), np.zeros((len(wanted), length), np.bool_)
    for row, one in enumerate(wanted):
        width = one.clicks.items.shape[1]
        items[row, :width], mask[row, :width] = one.clicks.items[0], one.clicks.mask[0]
    allowed = stacked([(one.clicks.allowed, 1) for one in wanted])
    return Clicks(items, mask, wanted[0].clicks.exclude_seen, allowed)


def stacked(given: Sequence[tuple[NDArray[np.float32] | None, int]]) -> NDArray[np.float32] | None:
    """What sessions allow: one row for all if they allow the same, else one per session.

    Args:
        given: float32 (1, N), or None where all items are allowed, and how many sessions allow that.
    """
    first = given[0][0]
    if all(one is first for one, _ in given):
        return first
    size = next(one.shape[1] for one, _ in given if one is not None)
    every = np.zeros((1, size), np.float32)
    return np.concatenate([np.repeat(every if one is None else one, rows, 0) for one, rows in given])
