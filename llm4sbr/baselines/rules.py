"""Rules from one item to another, by co-occurrence or by order (Ludewig & Jannach 2018, sec. 3.2).

With n_i the number of clicks on item i, summed over all training sessions p_1 .. p_L:

    ar      association rules   w_ij = sessions that contain both / sessions that contain i,   i != j
    markov  Markov chain        w_ij = 1 / n_i sum over clicks x with p_x = i of [p_x+1 = j]
    sr      sequential rules    w_ij = 1 / n_i sum over clicks x < y <= x + steps with p_x = i
                                       of [p_y = j] / (y - x)

All clicks of a session count, with decay (`ItemToItem`); the paper uses the last item only (`decay = 0`).
Each item keeps its `neighbours` largest weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from llm4sbr.baselines.item_to_item import Entries, ItemToItem, strongest
from llm4sbr.baselines.pairs import onward, together
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions


class Rules(ItemToItem):
    """Scores items by the weights of rules from the clicked items to them.

    Args:
        num_items: N.
        count: computes the weights w, float32 (N, N), from training sessions and N.
        neighbours: number of rules kept per item.
        decay: number of clicks after which a click's weight has fallen to 1/e; 0: only the last click counts.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self, num_items: int, *, count: Callable[[Sessions, int], csr_array], neighbours: int, decay: float
    ) -> None:
        if neighbours < 1 or decay < 0:
            raise ConfigError(
                f"rules: neighbours = {neighbours} must be 1 or more and decay = {decay:g} not negative"
            )
        super().__init__(num_items, decay=decay)
        self.count, self.kept = count, neighbours

    def fit(self, sessions: Sessions) -> None:
        """Compute the weights and keep the largest of each item."""
        self.weights = strongest(self.count(sessions, self.num_items), self.kept)


def association(num_items: int, *, neighbours: int = 100, decay: float = 2.8) -> Rules:
    """AR, association rules: items that are clicked in the same sessions."""

    def count(sessions: Sessions, num_items: int) -> csr_array:
        found = Entries.of(together(sessions, num_items))
        own = found.rows == found.columns
        holding = np.zeros(num_items, np.float32)
        holding[found.rows[own]] = found.values[own]
        rest = found.where(~own)
        return rest._replace(values=rest.values / holding[rest.rows]).matrix(num_items)

    return Rules(num_items, count=count, neighbours=neighbours, decay=decay)


def sequential(num_items: int, *, steps: int = 10, neighbours: int = 100, decay: float = 5.0) -> Rules:
    """SR, sequential rules: items that are clicked later, weighted by 1 / distance."""
    if steps < 1:
        raise ConfigError(f"sr: steps = {steps} must be 1 or more")

    def count(sessions: Sessions, num_items: int) -> csr_array:
        found = Entries.of(onward(sessions, num_items, [1 / gap for gap in range(1, steps + 1)]))
        clicks = np.bincount(sessions.items.numpy() - 1, minlength=num_items).astype(np.float32)
        return found._replace(values=found.values / clicks[found.rows]).matrix(num_items)

    return Rules(num_items, count=count, neighbours=neighbours, decay=decay)


def markov(num_items: int, *, neighbours: int = 100, decay: float = 5.0) -> Rules:
    """MC, a first-order Markov chain: items that are clicked next."""
    return sequential(num_items, steps=1, neighbours=neighbours, decay=decay)
