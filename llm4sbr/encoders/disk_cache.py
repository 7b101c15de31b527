"""A disk cache for the text vectors of catalogues, shared by all runs.

One safetensors file per encoder and catalogue, in the folder `embeddings` of the cache folder
(`LLM4SBR_CACHE`). Files are written atomically, so several processes may share the folder. Deleting a file
costs one encoding of the catalogue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.encoders.memo import Memo, averaged, lines_of
from llm4sbr.errors import StoreError

FORMAT = 1
"""Version of the file format; part of the file names."""


def folder() -> Path:
    """The folder of these files."""
    return store.cache_dir() / "embeddings"


def encode_cached(texts: Sequence[str], memo: Memo, *, note: Callable[[str], None]) -> Tensor:
    """Vectors float32 (len(texts), E) of a catalogue's texts, read from the disk cache if possible.

    The vectors are added to `memo`. A damaged file is written again; if a file cannot be written, the vectors
    are used all the same.

    Args:
        texts: of the items.
        memo: encodes texts without a cached vector.
        note: called with a message if a file is damaged or cannot be written.
    """
    lines = lines_of(texts)
    path = folder() / f"{_key(lines, memo.fingerprint)}.safetensors"
    vectors = _kept(path, (len(lines), memo.dim), note)
    if vectors is None:
        vectors = memo.encode(lines)
        _keep(path, vectors, memo.fingerprint, note)
    else:
        memo.learn(lines, vectors)
    row = {line: place for place, line in enumerate(lines)}
    return averaged(texts, lambda wanted: vectors[[row[line] for line in wanted]], memo.dim)


def _key(lines: Sequence[str], fingerprint: str) -> str:
    """Cache key of encoder and lines; lengths keep different inputs apart."""
    return store.fingerprint({"format": FORMAT, "encoder": fingerprint, "lines": lines})[:32]


def _kept(path: Path, shape: tuple[int, int], note: Callable[[str], None]) -> Tensor | None:
    reason = ""
    for _ in range(3):  # another process may be clearing the folder or writing the file
        if not path.exists():
            return None
        try:
            return _read(path, shape)
        except (StoreError, RuntimeError) as error:
            reason = str(error) if isinstance(error, StoreError) else f"{path}: {error}"
    note(f"{' '.join(reason.split())}; the catalogue is encoded again")
    return None


def _read(path: Path, shape: tuple[int, int]) -> Tensor:
    found = store.read_tensors(path)
    vectors, recorded = found.get("vectors"), found.get("sha256")
    if vectors is None or recorded is None or (vectors.dtype, tuple(vectors.shape)) != (torch.float32, shape):
        raise StoreError(f"{path}: not the vectors of this catalogue")
    if _digest(vectors).tolist() != recorded.tolist():
        raise StoreError(f"{path}: changed since it was written (its sha256 differs)")
    return vectors


def _keep(path: Path, vectors: Tensor, fingerprint: str, note: Callable[[str], None]) -> None:
    tensors = {"vectors": vectors, "sha256": _digest(vectors)}
    try:
        store.write_tensors(path, tensors, {"encoder": fingerprint})
    except StoreError as error:
        note(f"{error}; the next run encodes the catalogue again")


def _digest(vectors: Tensor) -> Tensor:
    """Their sha256, uint8 (32,)."""
    return torch.tensor(list(hashlib.sha256(vectors.contiguous().numpy().data).digest()), dtype=torch.uint8)
