"""Item-KNN: recommends items that occur in the same sessions as those clicked (Hidasi et al. 2016, sec. 4).

With c_ij the number of training sessions that contain both i and j, and n_i of those that contain i:

    similarity(i, j) = c_ij / sqrt((n_i + r) (n_j + r)),   i != j

This is the cosine of the items' binary vectors over sessions, with a regularisation r that reduces the
similarity of rare items, which co-occur by chance. Item j gets from a session s_1 .. s_L the score

    sum over p of exp(-(L - p) / decay) similarity(s_p, j)

The paper and its released code use the last item only (`decay = 0`). As in that code, r = 20 and each item
keeps its 100 most similar items. Unlike in that code, a session counts once per pair even if it repeats an
item, which is the cosine that the paper describes.
"""

from __future__ import annotations

import numpy as np

from llm4sbr.baselines.item_to_item import Entries, ItemToItem, strongest
from llm4sbr.baselines.pairs import together
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions


class ItemKNN(ItemToItem):
    """Scores items by their cosine similarity to the items of the session.

    Args:
        num_items: N.
        regularisation: r.
        neighbours: number of most similar items that are kept per item.
        decay: number of clicks after which a click's weight has fallen to 1/e; 0: only the last click counts.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        num_items: int,
        *,
        regularisation: float = 20.0,
        neighbours: int = 100,
        decay: float = 2.8,
    ) -> None:
        if regularisation < 0 or neighbours < 1 or decay < 0:
            raise ConfigError(
                f"item-knn: regularisation = {regularisation:g} and decay = {decay:g} must not be negative, "
                f"neighbours = {neighbours} must be 1 or more"
            )
        super().__init__(num_items, decay=decay)
        self.regularisation, self.kept = regularisation, neighbours

    def fit(self, sessions: Sessions) -> None:
        """Compute the similarities and keep the largest of each item."""
        found = Entries.of(together(sessions, self.num_items))
        own = found.rows == found.columns
        holding = np.zeros(self.num_items, np.float32)
        holding[found.rows[own]] = found.values[own]
        scale = 1 / np.sqrt(holding + self.regularisation).clip(min=1e-9)
        found = found.where(~own)
        similarity = found.values * scale[found.rows] * scale[found.columns]
        self.weights = strongest(found._replace(values=similarity).matrix(self.num_items), self.kept)
