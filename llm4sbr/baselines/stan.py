"""STAN and VSTAN: similar sessions, weighted by position and recency (Garg et al. 2019; Ludewig et al. 2021).

With s the current session, |s| its number of clicks, p(i, s) the position of the last click on item i in s,
H the training sessions, h_i the number of them that contain item i, and a(n) the age of session n, from 0 for
the newest to 1 for the oldest:

    w_i    = exp((p(i, s) - |s|) / session)                     larger for later clicks
    sim(n) = sum of w_i over shared items / sqrt(sum of w_i^2 |n|)
             * exp(-a(n) / age)                                 larger for newer sessions
    K      = the k sessions with the largest sim among the m most recent ones that share an item with s
    score of j = (1 + idf log(|H| / h_j)) * sum over the n in K that contain j of
             sim(n) * exp(-|p(j, n) - p(i*, n)| / item)         larger for items near the shared item
                    * exp((p(i*, s) - |s|) / match)             larger if the shared item was clicked late

where i* is the shared item that was clicked last in s. STAN has no `match` and no `idf`; VSTAN has both. In
the cosine, |s| and |n| count distinct items. The papers measure a session's age in days; times are not
available here, so it is the share of training sessions that are newer.
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
    """Scores items by similar sessions that contain them near an item of the current session.

    Args:
        num_items: N.
        m: number of most recent sessions that are compared.
        k: number of nearest neighbours.
        session: lambda_1 of STAN, in clicks.
        age: lambda_2 of STAN, as a share of the training sessions; infinite: age has no effect.
        item: lambda_3 of STAN, in clicks.
        match: of VSTAN, in clicks; infinite: the position of the shared item has no effect.
        idf: of VSTAN, the weight of the inverse document frequency; 0: no effect.

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
        """Scores of some rows of the batch, whose sessions have `length` clicks, float64 (rows, N)."""
        back = np.arange(int(length.max(initial=0)) + 1) - length[:, None]
        weights = np.exp(np.minimum(back, 0) / self.session)  # (rows, T + 1), by position
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
    """VSTAN: STAN with `match` and `idf`; options as those of `STAN`."""
    return STAN(num_items, m=m, k=k, session=session, age=age, item=item, match=match, idf=idf)


def last_places(sessions: Sessions, index: Incidence, num_items: int) -> Ints:
    """For each (session, item) pair in `index.items`, the position of the last click on it, from 1."""
    lengths = sessions.offsets.diff().numpy()
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - np.repeat(sessions.offsets[:-1].numpy(), lengths) + 1
    pairs = owner * num_items + sessions.items.numpy() - 1
    held = np.repeat(np.arange(len(lengths)), index.items.lengths) * num_items + index.items.values
    places = np.zeros(len(held), np.int64)
    np.maximum.at(places, np.searchsorted(held, pairs), place)
    return places
