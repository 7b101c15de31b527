"""STAN and VSTAN: similar sessions, weighted by position and recency (Garg et al. 2019; Ludewig et al. 2021).

With s the current session, |s| its clicks, p(i, s) the position of the last click on item i in s, H the
training sessions, h_i the number of them with item i, and a(n) the age of session n, 0 for the newest, 1 for
the oldest:

    w_i    = exp((p(i, s) - |s|) / session)                           later clicks weigh more
    sim(n) = sum of w_i over shared items / sqrt(sum of w_i^2 |n|)
             * exp(-a(n) / age)                                       newer sessions weigh more
    K      = of the m most recent sessions that share an item with s the k with the greatest sim
    score of j = (1 + idf log(|H| / h_j)) * sum over n in K that hold j of
             sim(n) * exp(-|p(j, n) - p(i*, n)| / item)               items near the shared one weigh more
                    * exp((p(i*, s) - |s|) / match)                   as do sessions that share a late one

where i* is the latest click of s that n shares. STAN has no `match` and no `idf`; VSTAN has both. |s| and |n|
count distinct items in the cosine. Times are not available here, so a session's age is the share of sessions
that are newer, where the papers use days.
"""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from llm4sbr.baselines.incidence import Incidence, Ints
from llm4sbr.baselines.session_neighbours import BatchClicks, NeighbourSessions, SessionKNN
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions

Floats = NDArray[np.float64]


class STAN(SessionKNN):
    """Scores items by the sessions that hold them near items of the session at hand.

    Args:
        num_items: N.
        m: most recent sessions looked at.
        k: neighbours that vote.
        session: lambda_1 of STAN, in clicks.
        age: lambda_2, as a share of the training sessions; infinite: no matter how old.
        item: lambda_3, in clicks.
        match: of VSTAN, in clicks; infinite: any shared item will do.
        idf: of VSTAN, how much rare items gain.

    Raises:
        ConfigError: an option is out of range.
    """

    name = "stan"

    def __init__(
        self,
        num_items: int,
        *,
        m: int = 1_000,
        k: int = 500,
        session: float = 2.0,
        age: float = inf,
        item: float = 2.0,
        match: float = inf,
        idf: float = 0.0,
    ) -> None:
        for name, value in (("session", session), ("age", age), ("item", item), ("match", match)):
            if not value > 0:
                raise ConfigError(f"stan: {name} = {value:g} must be above 0")
        if not 0 <= idf < inf:
            raise ConfigError(f"stan: idf = {idf:g} must be a number that is not negative")
        self.session, self.age, self.item, self.match, self.idf = session, age, item, match, idf
        super().__init__(num_items, m=m, k=k)

    def fit(self, sessions: Sessions) -> None:
        """Index the sessions."""
        super().fit(sessions)
        self.places = last_places(sessions, self.index, self.num_items)
        total = len(self.index.items.lengths)
        self.gain = 1 + self.idf * np.log(max(1, total) / self.index.sessions.lengths.clip(min=1))

    def votes(self, clicks: BatchClicks, length: Ints) -> Floats:
        """As in the base."""
        back = np.arange(int(length.max(initial=0)) + 1) - length[:, None]
        weights = np.exp(np.minimum(back, 0) / self.session)  # (rows, T + 1), by place
        found = NeighbourSessions.recent(self.index, clicks, self.m, weights=weights)
        near, similarity = found.closest(self.k, self._similarity(found, clicks, weights))
        late = np.exp((near.latest - length[near.row]) / self.match)
        where, voter = self.index.items.positions(near.session)
        items, places = self.index.items.values[where], self.places[where]
        star = np.zeros(weights.shape, np.int64)
        star[clicks.row, clicks.place] = clicks.item
        shared = items == star[near.row, near.latest][voter]
        of_star = np.zeros(len(near.row), np.int64)
        of_star[voter[shared]] = places[shared]
        close = np.exp(-np.abs(places - of_star[voter]) / self.item)
        weight = (similarity * late)[voter] * close
        return self.summed(near.row[voter], items, weight, len(length)) * self.gain

    def _similarity(self, found: NeighbourSessions, clicks: BatchClicks, weights: Floats) -> Floats:
        total = len(self.index.items.lengths)
        squares = np.bincount(clicks.row, weights[clicks.row, clicks.place] ** 2, minlength=len(weights))
        cosine = found.overlap / np.sqrt(squares[found.row] * self.index.items.lengths[found.session])
        newer = (total - 1 - found.session) / max(1, total - 1)
        similarity: Floats = cosine * np.exp(-newer / self.age)
        return similarity


def vstan(
    num_items: int,
    *,
    m: int = 1_000,
    k: int = 500,
    session: float = 2.0,
    age: float = inf,
    item: float = 2.0,
    match: float = 2.0,
    idf: float = 1.0,
) -> STAN:
    """VSTAN: STAN with `match` and `idf`."""
    return STAN(num_items, m=m, k=k, session=session, age=age, item=item, match=match, idf=idf)


def last_places(sessions: Sessions, index: Incidence, num_items: int) -> Ints:
    """Of each pair in `index.items`, the place of the session's last click on the item, counted from 1."""
    lengths = sessions.offsets.diff().numpy()
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - np.repeat(sessions.offsets[:-1].numpy(), lengths) + 1
    pairs = owner * num_items + sessions.items.numpy() - 1
    held = np.repeat(np.arange(len(lengths)), index.items.lengths) * num_items + index.items.values
    places = np.zeros(len(held), np.int64)
    np.maximum.at(places, np.searchsorted(held, pairs), place)
    return places
