from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest
from llm4sbr_ray import RayEngine

from llm4sbr import registry
from llm4sbr.engines import Local
from llm4sbr.errors import ConfigError
from llm4sbr.testing.engines import EngineContract

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are Ray's


def slowly(seconds: float):
    def work(block: int) -> tuple[int, int]:
        time.sleep(seconds)
        return block * block, os.getpid()

    return work


def failing():
    def work(block: int) -> int:
        if block == 3:
            raise ConfigError("block 3: wrong")
        return block

    return work


class TestContract(EngineContract):
    create = staticmethod(lambda: RayEngine(workers=2))


@pytest.fixture(scope="module")
def engine():
    made = RayEngine(workers=2)
    yield made
    made.close()


def test_it_is_registered():
    assert registry.load("engines", "ray") is RayEngine


def test_results_in_order_from_several_processes(engine):
    make = partial(slowly, 0.01)
    found = list(engine.map(make, range(40)))
    assert [result for result, _ in found] == [i * i for i in range(40)]
    assert {pid for _, pid in found} == set(engine.processes())
    assert len(set(engine.processes())) == 2
    again = list(engine.map(make, range(4)))
    assert {pid for _, pid in again} <= set(engine.processes())
    assert [result for result, _ in Local().map(make, range(40))] == [result for result, _ in found]


def test_blocks_are_taken_a_few_at_a_time(engine):
    taken = []

    def blocks():
        for block in range(1000):
            taken.append(block)
            yield block

    results = engine.map(partial(slowly, 0.0), blocks())
    for _ in range(10):
        next(results)
    assert len(taken) <= 10 + 2 * 2 + 1
    results.close()


def test_a_killed_worker_is_replaced_and_its_block_done_again(engine):
    make = partial(slowly, 0.05)
    results = engine.map(make, range(40))
    first = [next(results) for _ in range(4)]
    os.kill(engine.processes()[0], signal.SIGKILL)
    found = [*first, *results]
    assert [result for result, _ in found] == [i * i for i in range(40)]
    assert len({pid for _, pid in found}) == 3


def test_an_error_of_ours_comes_back_as_itself(engine):
    with pytest.raises(ConfigError, match="block 3: wrong"):
        list(engine.map(failing, range(10)))


def test_wrong_options():
    with pytest.raises(ConfigError, match="workers = 0"):
        RayEngine(workers=0)
