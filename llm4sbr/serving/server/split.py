"""Which of several models answers: shares, and keys that always get the same model."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

from llm4sbr.errors import InputError


class Split:
    """Divides requests among models.

    A key is hashed to a point between 0 and 1, and each model has a stretch of that length, in the order in
    which they are named. So a key gets the same model on every machine and after every restart, and moving
    a share from one model to the next moves only the keys between them.

    Args:
        shares: name -> share of the requests, relative to the others'; at least one is above 0.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        whole = sum(shares.values())
        self.shares = {name: share / whole for name, share in shares.items()}
        self._names = [name for name, share in shares.items() if share]
        ends = list(accumulate(self.shares[name] for name in self._names))
        self._ends = ends[:-1]  # the last stretch has what rounding left over

    def choose(self, key: str | None) -> str:
        """The model for a key; by chance if there is none."""
        return self._names[bisect_right(self._ends, random.random() if key is None else point(key))]


def point(key: str) -> float:
    """A number in [0, 1) that is evenly distributed over keys."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:6]) / 2**48


def parse_split(text: str) -> dict[str, float]:
    """`A=90,B=10` as shares by name.

    Raises:
        InputError: something else.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (one.strip() for one in part.partition("="))
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not (name and equals and math.isfinite(share) and share >= 0):
            raise InputError(f"--split {part.strip()!r:.60}: expected NAME=SHARE, such as A=90,B=10")
        if name in shares:
            raise InputError(f"--split: {name} is named twice")
        shares[name] = share
    if not any(shares.values()):
        raise InputError("--split: every share is 0")
    return shares
