"""SLIST: a linear item-item model in closed form (Choi et al., WWW 2021).

X is the matrix of sessions and their items; S and T have the sources and targets of all cuts (see `pairs`).
B (N, N) is fitted to predict both the whole session and the next items (Eq. 13 to 15):

    B = argmin alpha |X - XB|^2 + (1 - alpha) |T - SB|^2 + lambda |B|^2
      = (alpha X'X + (1 - alpha) S'S + lambda I)^-1 (alpha X'X + (1 - alpha) S'T)

alpha = 1 is SLIS, alpha = 0 is SLIT. Item j gets from a session s_1 .. s_L the score (Eq. 16)

    sum over p of exp(-(L - p) / decay) B[s_p, j]

Differences to the paper: only the `neighbours` largest positive weights of each item are kept, which does not
reduce accuracy. The diagonal of B is unconstrained if sessions often repeat items, and 0 otherwise; the paper
bounds it by xi. In a catalogue of more than `closed_form` items, each item is predicted from at most
`support` items (see `ridge`). Sessions are not weighted by their age.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array, identity

from llm4sbr.baselines import ridge
from llm4sbr.baselines.item_to_item import ItemToItem, strongest
from llm4sbr.baselines.pairs import PairSums
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions

REPEATS = 0.05
"""The diagonal of B is learned if at least this share of clicks repeat an item of their session."""


class SLIST(ItemToItem):
    """Scores items by a linear model from clicked items to next items.

    Args:
        num_items: N.
        alpha: weight in 0..1 of predicting the whole session; 1 - alpha is that of the next items.
        l2: lambda.
        cut_decay: delta, the number of clicks after which the weight of a source or target is 1/e.
        decay: number of clicks after which a click's weight has fallen to 1/e when a session is scored.
        neighbours: number of largest positive weights kept per item.
        support: maximum number of items that one item is predicted from, without the closed form.
        closed_form: largest catalogue, in items, for which the closed form is computed.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        num_items: int,
        *,
        alpha: float = 0.5,
        l2: float = 100.0,
        cut_decay: float = 2.0,
        decay: float = 5.0,
        neighbours: int = 128,
        support: int = 64,
        closed_form: int = 5_000,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ConfigError(f"slist: alpha = {alpha:g} must be in 0..1")
        for name, value in (("l2", l2), ("cut_decay", cut_decay), ("decay", decay)):
            if value <= 0:
                raise ConfigError(f"slist: {name} = {value:g} must be above 0")
        for name, value in (("neighbours", neighbours), ("support", support)):
            if value < 1:
                raise ConfigError(f"slist: {name} = {value} must be 1 or more")
        super().__init__(num_items, decay=decay)
        self.alpha, self.l2, self.cut_decay = alpha, l2, cut_decay
        self.kept, self.support, self.closed_form = neighbours, support, closed_form
        self.notes: list[str] = []

    def fit(self, sessions: Sessions) -> None:
        """Compute B; `notes` says if the catalogue was too large for the closed form."""
        sums = PairSums.of(sessions, self.num_items, decay=self.cut_decay)
        shared = self.alpha * sums.together
        ridges = self.l2 * identity(self.num_items, dtype=np.float32, format="csr")
        gram = csr_array(shared + (1 - self.alpha) * sums.sources + ridges, dtype=np.float32)
        targets = csr_array(shared + (1 - self.alpha) * sums.onward, dtype=np.float32)
        own = repeated(sessions) >= REPEATS
        self.notes = []
        if self.num_items <= self.closed_form:
            weights = ridge.dense(gram, targets, own=own)
        else:
            self.notes = [
                f"slist: {self.num_items:,} items are too many for the closed form (at most "
                f"{self.closed_form:,}); each item is explained by the {self.support} that gain most"
            ]
            weights = ridge.sparse(gram, targets, own=own, support=self.support)
        self.weights = strongest(weights, self.kept)


def slis(num_items: int, *, l2: float = 100.0, decay: float = 5.0, neighbours: int = 128) -> SLIST:
    """SLIS: SLIST with alpha = 1; only the decay depends on the order of the clicks."""
    return SLIST(num_items, alpha=1.0, l2=l2, decay=decay, neighbours=neighbours)


def slit(
    num_items: int,
    *,
    l2: float = 100.0,
    cut_decay: float = 2.0,
    decay: float = 5.0,
    neighbours: int = 128,
) -> SLIST:
    """SLIT: SLIST with alpha = 0, fitted to predict the next items only."""
    return SLIST(num_items, alpha=0.0, l2=l2, cut_decay=cut_decay, decay=decay, neighbours=neighbours)


def repeated(sessions: Sessions) -> float:
    """Share of the clicks that are on an item which their session already contains."""
    lengths = sessions.offsets.diff()
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    pairs = owner * (int(sessions.items.max()) + 1) + sessions.items if len(owner) else owner
    return 1 - len(np.unique(pairs.numpy())) / max(1, len(pairs))
