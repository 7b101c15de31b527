"""The contract of engines; subclass `EngineContract` in a plugin's tests.

class TestMine(EngineContract):
    create = MyEngine
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Engine
from llm4sbr.testing.contract import Contract

MOST_AHEAD = 64
"""Maximum number of blocks that an engine may read before the first result is requested."""


def square() -> Callable[[int], int]:
    """Create a work function that squares numbers."""

    def work(block: int) -> int:
        return block * block

    return work


def refuse() -> Callable[[int], int]:
    """Create a work function that fails on block 3."""

    def work(block: int) -> int:
        if block == 3:
            raise ConfigError("block 3: refused")
        return block

    return work


def mark() -> Callable[[int], str]:
    """Create a work function that returns its own random name."""
    name = uuid.uuid4().hex
    return lambda block: name


class EngineContract(Contract, kind="engines"):
    """Tests of one engine."""

    create: Callable[[], Engine]
    """Creates the engine."""

    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        """An engine, which is closed after the test."""
        made = self.create()
        yield made
        made.close()

    def test_satisfies_the_protocol(self, engine: Engine) -> None:
        """It has the members of the protocol and at least one worker."""
        assert isinstance(engine, Engine), "needs workers, map and close"
        assert engine.workers >= 1

    def test_results_come_in_the_order_of_the_blocks(self, engine: Engine) -> None:
        """One result per block, in order, also if `map` is called again; no result for no block."""
        for _ in range(2):
            found = list(engine.map(square, range(50)))
            assert len(found) == 50, f"50 blocks gave {len(found)} results"
            wrong = [i for i in range(50) if found[i] != i * i]
            assert wrong == [], f"blocks {wrong} got the result of another block"
        assert list(engine.map(square, [])) == []

    def test_work_is_made_once_per_worker(self, engine: Engine) -> None:
        """`make`, which may load a model, is called once per worker, also over several calls of `map`."""
        makers = set(engine.map(mark, range(30))) | set(engine.map(mark, range(30)))
        assert len(makers) <= engine.workers, f"{engine.workers} workers called make {len(makers)} times"

    def test_blocks_are_not_all_taken_at_once(self, engine: Engine) -> None:
        """Only a few blocks are read ahead, since millions of them would not fit into memory."""
        taken = []

        def blocks() -> Iterator[int]:
            for block in range(10_000):
                taken.append(block)
                yield block

        results = engine.map(square, blocks())
        assert next(results) == 0
        assert len(taken) <= MOST_AHEAD, f"{len(taken)} blocks were read before the first result"
        results.close()  # type: ignore[attr-defined]

    def test_errors_of_ours_stay_ours(self, engine: Engine) -> None:
        """An error that the work raises arrives with its class and message, and `map` works afterwards."""
        with pytest.raises(ConfigError, match="block 3: refused"):
            list(engine.map(refuse, range(10)))
        assert list(engine.map(square, range(3))) == [0, 1, 4]
