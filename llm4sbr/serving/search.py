"""Finds the best items of a large catalogue without reading all of it: an index, then exact scores.

    query --index, a part of its lists--> candidates --their exact rows--> scores --> top K

The index (faiss, inverted lists of 8-bit rows) and the exact rows are one file of the artefact. Where
item-item tables add to a model's scores, they add to those of the candidates, and the items with the largest
additions are candidates, too; popularity is one more column of the rows. How many of the K best items this
finds is measured at export.

Of a part of the catalogue that a filter leaves, all items are candidates if they are few; of more, the index
finds those that pass, and as many more lists are read as items do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.serving.mapped import mapped_tensors
from llm4sbr.system import installation

INDEX = "index.safetensors"

FEW = 5000
"""Items that are all scored exactly when a filter leaves no more."""

NEAR, FARTHER = 0.25, 4
"""If a filter leaves less than this share of the items nearest a query, so many times the lists are read."""

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Told = list[tuple[Ids, NDArray[np.float64]]]
"""Of every item-item table: items that get something, and what, see `Added.of`."""


class Added(NamedTuple):
    """An item-item table of which w log(1 + s / e) is added to the scores, see `fusion.counted`."""

    items: NDArray[np.int32]
    """int32 (N, M), catalogue ids of the neighbours, 0 for none."""
    weights: Floats
    """float32 (N, M)."""
    fading: Floats
    """float32 (A,), the weight of the latest click, the one before, ..."""
    weight: float
    small: float

    def of(self, clicks: Ids) -> tuple[Ids, NDArray[np.float64]]:
        """Ascending catalogue ids of items that get something, and what, for clicks int64 (T,) in order."""
        rows = clicks[::-1][: len(self.fading)] - 1
        ids, place = np.unique(self.items[rows], return_inverse=True)
        faded = self.weights[rows] * self.fading[: len(rows), None]
        sums = np.bincount(place.reshape(-1), faded.reshape(-1), len(ids))
        return ids.astype(np.int64), self.weight * np.log1p(sums / self.small)


class Search:
    """An index, the exact rows, and what is added to their products.

    Args:
        index: of faiss, over the rows.
        rows: float32 (N, Q).
        added: item-item tables.
        own: added to the scores of a session's own items: of the last one, of all others; None if nothing is.
        count: candidates that the index finds.
    """

    def __init__(
        self,
        index: Any,
        rows: Floats,
        added: Sequence[Added],
        *,
        own: tuple[float, float] | None,
        count: int,
    ) -> None:
        self.index = index
        self.rows = rows
        self.added = added
        self.own = own
        self.count = min(count, len(rows))

    @classmethod
    def open(cls, path: Path, about: Mapping[str, Any]) -> Search:
        """Read the file at `path`.

        Args:
            path: written by `write`.
            about: the record of the artefact, to which the file must belong.

        Raises:
            StoreError: the file is damaged, or another model's.
            ModelUnavailableError: faiss is not installed.
        """
        tensors, about_itself = mapped_tensors(path)
        facts = _facts(about_itself)
        for key in ("fingerprint", "catalogue"):
            if facts.get(key) != about[key]:
                raise StoreError(f"{path}: the index of another {key}: {facts.get(key)!r}; export again")
        try:
            index = faiss().deserialize_index(np.array(tensors["index"]))
            tables = range(int(facts["tables"]))
            added = [_table(tensors, number) for number in tables]
            own = None if facts["own"] is None else (float(facts["own"][0]), float(facts["own"][1]))
            found = cls(index, tensors["rows"], added, own=own, count=int(facts["count"]))
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(f"{path}: not a whole index ({reason}); export again") from None
        sizes = {len(found.rows), index.ntotal, *(len(one.items) for one in added)}
        if sizes != {about["num_items"]} or index.d != found.rows.shape[1]:
            raise StoreError(
                f"{path}: the index of {index.ntotal} items of {about['num_items']}; export again"
            )
        return found

    def write(self, path: Path, about: Mapping[str, str]) -> None:
        """Write a file that `open` reads, with the `fingerprint` and `catalogue` that it belongs to."""
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[Any]] = {"index": faiss().serialize_index(self.index), "rows": self.rows}
        for number, one in enumerate(self.added):
            tensors |= {f"{number}.items": one.items, f"{number}.weights": one.weights}
            tensors[f"{number}.fading"] = one.fading
            tensors[f"{number}.numbers"] = np.array([one.weight, one.small])
        facts: dict[str, Any] = {key: about[key] for key in ("fingerprint", "catalogue")}
        facts |= {"tables": len(self.added), "count": self.count, "own": self.own}
        with store.writing(path) as temporary:
            whole = {name: np.ascontiguousarray(one) for name, one in tensors.items()}
            save_file(whole, temporary, {"about": json.dumps(facts)})  # several are written in any order

    def answer(self, session: Any, feed: Mapping[str, NDArray[Any]], k: int) -> tuple[Ids, Floats]:
        """The result of `top`, for all inputs of a graph that scores by itself; `session` has the queries."""
        queries = self.queries(session, feed)
        return self.top(queries, feed["items"], feed["mask"], feed["exclude_seen"], k, feed.get("allowed"))

    def queries(self, session: Any, feed: Mapping[str, NDArray[Any]]) -> Floats:
        """The queries of sessions, float32 (B, Q), by the graph; arguments as for `answer`."""
        given = {name: value for name, value in feed.items() if name not in ("exclude_seen", "allowed")}
        found: Floats = session.run(["query"], given)[0]
        return found

    def top(
        self,
        queries: Floats,
        items: Ids,
        mask: NDArray[np.bool_],
        exclude: NDArray[np.bool_],
        k: int,
        allowed: Floats | None = None,
    ) -> tuple[Ids, Floats]:
        """The best items found, ids int64 (B, K), 0 for none, and their exact scores float32 (B, K).

        Args:
            queries: float32 (B, Q).
            items: int64 (B, T), as for the graph: where `mask` is false there is an older click or padding.
            mask: bool (B, T).
            exclude: bool (B, 1).
            k: K.
            allowed: float32 (B or 1, N), 0 for items that may be found, minus infinity for others.
        """
        ids = np.zeros((len(queries), k), np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        if allowed is None:
            candidates = self.index.search(queries, self.count)[1] + 1  # 0 for none
        for row, query in enumerate(queries):
            clicks, own = items[row][mask[row]], np.unique(items[row])
            told = [one.of(clicks) for one in self.added]
            if allowed is None:
                found = self._candidates(candidates[row], told, own)
            else:
                found = self._passing(query, allowed[row % len(allowed)] == 0, told, own, k)
            if not len(found):
                continue
            values = self._scored(query, found, told)
            if exclude[row, 0]:
                values[np.isin(found, own)] = -np.inf
            elif self.own is not None:
                last, others = self.own
                values[found == clicks[-1]] += np.float32(last)
                values[np.isin(found, own) & (found != clicks[-1])] += np.float32(others)
            best = np.argpartition(-values, min(k, len(values)) - 1)[:k]
            best = best[np.lexsort((found[best], -values[best]))]
            best = best[values[best] > -np.inf]
            ids[row, : len(best)], scores[row, : len(best)] = found[best], values[best]
        return ids, scores

    def _candidates(self, near: Ids, told: Told, own: Ids, passing: NDArray[np.bool_] | None = None) -> Ids:
        """Ascending candidates int64 (C,): those near the query, those with large additions, and `own`."""
        many = [near, own] if self.own is not None else [near]
        for ids, values in told:
            kept = slice(None) if passing is None else passing[ids - 1]
            many.append(_largest(ids[kept], values[kept], self.count))
        found = np.unique(np.concatenate(many))
        found = found[found > 0]
        return found if passing is None else found[passing[found - 1]]

    def _passing(self, query: Floats, passing: NDArray[np.bool_], told: Told, own: Ids, k: int) -> Ids:
        """Ascending candidates int64 (C,) among the items that pass, bool (N,): at least k, or all."""
        every = int(passing.sum())
        if every > FEW:
            module = faiss()
            lists = -(-self.index.nprobe * len(passing) // every)
            lists = min(lists * (FARTHER if self._leaves_out(query, passing) else 1), self.index.nlist)
            bits = np.packbits(passing, bitorder="little")
            chosen = module.IDSelectorBitmap(bits)
            wanted = module.SearchParametersIVF(sel=chosen, nprobe=lists)
            near = self.index.search(query[None], self.count, params=wanted)[1][0] + 1
            found = self._candidates(near, told, own, passing)
            if len(found) - len(own) >= k:
                return found
        return np.flatnonzero(passing) + 1

    def _leaves_out(self, query: Floats, passing: NDArray[np.bool_]) -> bool:
        """Whether most of the items near a query do not pass; what does lies in lists of all directions."""
        few = faiss().SearchParametersIVF(nprobe=max(self.index.nprobe // 8, 1))
        near = self.index.search(query[None], self.count, params=few)[1][0]
        near = near[near >= 0]
        return not len(near) or float(passing[near].mean()) < NEAR

    def _scored(self, query: Floats, found: Ids, told: Told) -> Floats:
        """The scores float32 (C,) of ascending candidates int64 (C,), without `own`."""
        values: Floats = self.rows[found - 1] @ query
        for ids, more in told:
            place = np.searchsorted(ids, found).clip(max=len(ids) - 1)
            values = values + np.where(ids[place] == found, more[place], 0.0).astype(np.float32)
        return values


def _largest(ids: Ids, values: NDArray[np.float64], count: int) -> Ids:
    """The ids with the largest values, at most `count`."""
    return ids if len(ids) <= count else ids[np.argpartition(-values, count - 1)[:count]]


def _facts(about: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(about.get("about", ""))
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _table(tensors: Mapping[str, NDArray[Any]], number: int) -> Added:
    items, weights, fading = (tensors[f"{number}.{name}"] for name in ("items", "weights", "fading"))
    weight, small = tensors[f"{number}.numbers"].tolist()
    return Added(items, weights, fading, weight, small)


def faiss() -> Any:
    """The module; `ModelUnavailableError` if it is not installed."""
    try:
        import faiss as module
    except ModuleNotFoundError:
        raise installation.not_installed("faiss", "index") from None
    return module
