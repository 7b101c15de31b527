"""An exported model whose catalogue has grown since: its own list, and the new items scored beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4sbr.errors import StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.added import ADDED, Added
from llm4sbr.serving.artefact import Artefact, Ids, Scores
from llm4sbr.serving.attributes import Attributes, Column, Numbers, Texts

QUERY = "session_query"
QUERIES = (QUERY, "query")
"""The graph's output by which new items are scored: of a whole graph, of one with an index."""

Mask = NDArray[np.bool_]


class Grown(Artefact):
    """An artefact with added items: ids N + 1, N + 2, ... behind those of the graph.

    A click on a new item is not read, since the model has learned nothing of it, but keeps the item out of
    the list. A session of new items alone is read as the known item whose title is most like the last.
    """

    added: Added
    own: int
    """N, the items of the graph."""
    closed: NDArray[np.float32] | None
    """float32 (1, N), minus infinity for items that were taken out, else 0; None if none were."""

    @classmethod
    def of(cls, opened: Artefact, folder: Path) -> Grown:
        """The artefact in `folder` with its added items; `StoreError` if they are not for it."""
        added = Added.open(folder / ADDED)
        if added.fingerprint != opened.fingerprint:
            raise StoreError(f"{folder / ADDED}: made for another model; run catalogue add again")
        outputs = {one.name: one.shape for one in opened.session.get_outputs()}
        wide = {outputs[name][1] for name in QUERIES if name in outputs}
        # An index has a column more where counts of clicks are added.
        if added.keys and not any(width - added.rows.shape[1] in (0, 1) for width in wide):
            raise StoreError(f"{folder / ADDED}: this graph has no query for its rows; export again")
        size = len(opened.keys)
        catalogue = Catalogue([*opened.keys, *added.keys], [*opened.titles, *added.titles])
        attributes = extended(opened.attributes, added.attributes, size, len(added.keys))
        found = cls(opened.record, catalogue, opened.session, opened.search, attributes)
        found.added, found.own, found.num_items = added, size, len(catalogue.keys)
        gone = set(added.removed)
        there = np.array([key not in gone for key in opened.keys], np.bool_)
        found.closed = np.where(there, np.float32(0), np.float32(-np.inf))[None] if gone else None
        return found

    def run(
        self,
        items: Ids,
        mask: Mask,
        exclude_seen: Mask,
        intents: NDArray[np.float32] | None = None,
        allowed: NDArray[np.float32] | None = None,
    ) -> tuple[Ids, Scores]:
        """As `Artefact.run`, over all items."""
        known, read = self.readable(items, mask)
        feed: dict[str, NDArray[Any]] = {"items": known, "mask": read, "exclude_seen": exclude_seen}
        if self.takes_intents:
            feed["intents"] = self._intents(None, len(items)) if intents is None else intents
        ours = None
        if allowed is not None:
            ours = allowed[:, self.own :] if allowed.shape[1] > 1 else allowed
            allowed = allowed[:, : self.own]
        if self.closed is not None:
            allowed = self.closed if allowed is None else allowed + self.closed
        if allowed is not None:
            feed["allowed"] = allowed
        if self.search is not None:
            query = self.search.queries(self.session, feed)
            ids, scores = self.search.top(query, known, read, exclude_seen, self.k, feed.get("allowed"))
            query = query[:, : self.added.rows.shape[1]]
        elif self.added.keys:
            ids, scores, query = self.session.run(["item_ids", "scores", QUERY], feed)
        else:
            ids, scores = self.session.run(["item_ids", "scores"], feed)
        if not self.added.keys:
            return ids, scores
        new = query @ self.added.rows.T + np.float32(self.added.prior)
        if ours is not None:
            new = new + ours
        rows, columns = np.nonzero((items > self.own) & exclude_seen)
        new[rows, items[rows, columns] - self.own - 1] = -np.inf
        return best(ids, scores, new, self.own)

    def predict(self, items: Ids, mask: Mask) -> NDArray[np.float32]:
        """As `Artefact.predict`; clicks on new items are not read."""
        return super().predict(*self.readable(items, mask))

    def readable(self, items: Ids, mask: Mask) -> tuple[Ids, Mask]:
        """The clicks that the graph knows, int64 and bool (B, T), those that it reads first."""
        return read_clicks(items, mask, self.own, self.added.read_as)


def read_clicks(items: Ids, mask: Mask, own: int, read_as: Ids) -> tuple[Ids, Mask]:
    """The clicks that a model of `own` items knows, int64 and bool (B, T), those that it reads first.

    Args:
        items: int64 (B, T), new items behind the model's own.
        mask: bool (B, T), true at clicks that are read.
        own: N.
        read_as: int64 (n,), of each new item the known one that stands for it where no click is known.
    """
    rows = np.flatnonzero((items > own).any(1))
    if not len(rows):
        return items, mask
    items, mask = items.copy(), mask.copy()
    for row in rows:
        clicks, read = items[row][items[row] > 0], mask[row][items[row] > 0]
        known = clicks <= own
        wanted = clicks[known & read]
        if not len(wanted):
            last = clicks[read][-1:] if read.any() else clicks[-1:]
            wanted = read_as[last - own - 1]
        kept = np.concatenate([wanted, clicks[known & ~read]])[: items.shape[1]]
        items[row], mask[row] = 0, False
        items[row, : len(kept)] = kept
        mask[row, : len(wanted)] = True
    return items, mask


def best(ids: Ids, scores: Scores, new: NDArray[np.float32], own: int) -> tuple[Ids, Scores]:
    """The K best of lists (B, K) and of n new items with the scores (B, n), whose ids begin at `own` + 1."""
    k = ids.shape[1]
    few = min(k, new.shape[1])
    chosen = np.argpartition(-new, few - 1, axis=1)[:, :few]
    every = np.concatenate([scores, np.take_along_axis(new, chosen, 1)], 1)
    order = np.argsort(-every, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(every, order, 1)
    named = np.take_along_axis(np.concatenate([ids, chosen + own + 1], 1), order, 1)
    return np.where(found == -np.inf, 0, named), found


def extended(attributes: Attributes, more: dict[str, list[str]], size: int, count: int) -> Attributes:
    """Attributes of `size` items with those of `count` new ones; clicks are 0, and no named filter passes."""
    columns: dict[str, Column] = {}
    for name, column in attributes.columns.items():
        texts = more.get(name, [""] * count)
        if isinstance(column, Numbers):
            known = column.values[column.codes]
            columns[name] = Numbers.of(np.concatenate([known, [_number(one) for one in texts]]))
            continue
        places = dict(column.places)
        codes = np.array([places.setdefault(one, len(places)) for one in texts], np.uint32)
        columns[name] = Texts(list(places), np.concatenate([column.codes.astype(np.uint32), codes]))
    for name in more.keys() - columns.keys():
        columns[name] = Attributes.of({name: [""] * size + more[name]}).columns[name]
    zeros = np.zeros(count, np.int32)
    clicks = None if attributes.clicks is None else np.concatenate([attributes.clicks, zeros])
    filters = {name: np.concatenate([one, zeros > 0]) for name, one in attributes.filters.items()}
    return Attributes(columns, clicks, filters)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
