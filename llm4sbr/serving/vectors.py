"""The vectors behind a recommendation, for analyses of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr.errors import InputError
from llm4sbr.serving.recommendation import Explanation
from llm4sbr.serving.titles import resolve_session

if TYPE_CHECKING:
    from llm4sbr.serving.recommend import Recommender


class SessionIntents(NamedTuple):
    """The intents of one session."""

    vectors: NDArray[np.float32] | None
    """float32 (P, E), one row per perspective; None if none are known."""
    perspectives: list[str]
    """Their names, in the order of the rows."""
    explanation: Explanation | None
    """Where they came from, and the items they are tied to; None if the model uses none."""


def item_embeddings(recommender: Recommender) -> NDArray[np.float32]:
    """The trained item embeddings, float32 (N, D); row i - 1 is the item with catalogue id i.

    Args:
        recommender: as `llm4sbr.load` opens it.

    Raises:
        InputError: a linear baseline, whose scores are not products with item embeddings.
    """
    found: NDArray[np.float32] = recommender.model.backbone.item_embeddings().detach().float().numpy()
    if not found.shape[1]:
        raise InputError(f"{recommender.trained.variant}: has no item embeddings; load another variant")
    return found.copy()


def text_vectors(recommender: Recommender) -> NDArray[np.float32]:
    """The vectors of the items' texts, float32 (N, E), unit length; (0, E) if the run has none."""
    return recommender.vectors.numpy().copy()


def session_intents(
    recommender: Recommender, session: str | Sequence[str | int], *, source: str = "auto"
) -> SessionIntents:
    """The intents that `recommend` would use for a session.

    Args:
        recommender: as `llm4sbr.load` opens it.
        session: as for `recommend`, and with the same errors.
        source: as for `recommend`.
    """
    recommender.check(None, source)
    understood = resolve_session(session, recommender.titles)
    ids = [one.id for one in understood.items][-recommender.longest :]
    if not ids:
        raise InputError("the model knows none of the session's items")
    vectors, explanation = recommender.intents(ids, source)
    array = None if vectors is None else vectors[0].detach().float().numpy().copy()
    return SessionIntents(array, list(recommender.perspectives), explanation)
