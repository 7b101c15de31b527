"""Explains an exported model's predicted intents by the items with the most similar titles.

The titles' vectors are in a separate file in 8 bits and stay on disk: recommending does not need them, and an
explanation reads them once. They are not memory-mapped, since overwriting a mapped file can crash the
process.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4sbr.errors import StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.recommendation import TIED, Explanation, PerspectiveIntent, tied

TITLES = "titles.npy"
"""int8 (N, E): title vectors at unit length, divided by the largest entry of all, times 127."""

BLOCK = 8192
"""Titles read and compared per block."""

Floats = NDArray[np.float32]


def write_titles(folder: Path, vectors: Floats) -> None:
    """Write the titles' vectors, float32 (N, E), into an artefact's folder."""
    unit = _normal(vectors)
    largest = float(np.abs(unit).max()) or 1.0
    np.save(folder / TITLES, np.round(unit * (127 / largest)).astype(np.int8), allow_pickle=False)


class Predicted:
    """Explains the intents that a model of the intent mode `predictor` predicts.

    Args:
        artefact: opened.
        folder: its folder.
    """

    def __init__(self, artefact: Artefact, folder: Path) -> None:
        self.artefact = artefact
        self.catalogue = Catalogue(artefact.keys, artefact.titles)
        known = artefact.tells_intents and TITLES in artefact.record["files"]
        self.titles = _Titles(folder / TITLES, artefact) if known else None

    def explain(self, ids: Sequence[int], *, f: int = TIED) -> Explanation:
        """The items nearest to the predicted intents of a session, by perspective, with cosines.

        Args:
            ids: catalogue ids, oldest first, not empty, no more than the model takes.
            f: items per perspective.

        Raises:
            StoreError: the titles' file was overwritten.
        """
        if self.titles is None:  # an older export, or the run had no vectors
            return Explanation(self.artefact.source)
        items = np.array([ids], np.int64)
        intents = _normal(self.artefact.predict(items, np.ones(items.shape, np.bool_))[0])  # (P, E)
        cosines = np.concatenate([_cosines(intents, block) for block in self.titles.blocks()], 1)  # (P, N)
        perspectives = [
            PerspectiveIntent(
                name, "", tied(self.catalogue, [(row + 1, float(one[row])) for row in _best(one, f)])
            )
            for name, one in zip(self.artefact.perspectives, cosines, strict=True)
        ]
        return Explanation(self.artefact.source, [], perspectives)


class _Titles:
    """The file of titles, kept open as long as this object lives."""

    def __init__(self, path: Path, artefact: Artefact) -> None:
        self.path = path
        self.shape = (artefact.record["num_items"], artefact.text_dim)
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        self._lock = Lock()
        try:
            np.lib.format.read_magic(self._file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(self._file)
        except ValueError:
            shape, dtype = (), None
        if shape != self.shape or dtype != np.int8:
            raise StoreError(f"{path}: {dtype} {shape}, expected int8 {self.shape}; export again")
        self._start = self._file.tell()

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All titles in order, in blocks of int8 (n, E); `StoreError` if the file was truncated."""
        items, width = self.shape
        with self._lock:
            self._file.seek(self._start)
            for start in range(0, items, BLOCK):
                size = min(BLOCK, items - start) * width
                data = self._file.read(size)
                if len(data) < size:
                    raise StoreError(f"{self.path}: shorter than it was; export again")
                yield np.frombuffer(data, np.int8).reshape(-1, width)


def _best(cosines: Floats, f: int) -> list[int]:
    """The f rows with the largest of (N,) cosines, best first."""
    few = np.argpartition(-cosines, min(f, len(cosines)) - 1)[:f]
    found: list[int] = few[np.lexsort((few, -cosines[few]))].tolist()
    return found


def _cosines(intents: Floats, titles: NDArray[Any]) -> Floats:
    """Float32 (P, E) at unit length and int8 (n, E) -> (P, n); 0 for a title without a vector."""
    wide = titles.astype(np.float32)
    lengths = np.sqrt(np.einsum("ne,ne->n", wide, wide))
    found: Floats = (intents @ wide.T) / np.maximum(lengths, 1.0)
    return found


def _normal(vectors: Floats) -> Floats:
    """Scale rows to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = vectors / np.maximum(lengths, 1e-12)
    return found
