"""The engine `local`: `infer` and `localize` work in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["Local"]


class Local:
    """This process, one block after the other."""

    workers = 1

    def __init__(self) -> None:
        self._made: tuple[object, Callable[[Any], Any]] | None = None

    def map(self, make: Callable[[], Callable[[Any], Any]], blocks: Iterable[Any]) -> Iterator[Any]:
        """The work's result for every block, in their order."""
        if self._made is None or self._made[0] is not make:
            self._made = make, make()
        yield from map(self._made[1], blocks)

    def close(self) -> None:
        """Forget the work, and with it a model in memory."""
        self._made = None
