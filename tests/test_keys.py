"""Keys of prompts on disk, and that asking takes the same memory however many prompts there are."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.asking import asker as asking
from llm4sbr.asking import keys as module
from llm4sbr.asking.asker import Asker, Budget
from llm4sbr.asking.cache import AnswerCache, answer_key
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.plan import plan


def key(number: int) -> bytes:
    return answer_key("llm", str(number))


def test_rows_come_back_in_their_order():
    rows = [[key(2 * i), key(2 * i + 1)] for i in range(10)]
    with PromptKeys(2) as keys:
        for row in rows[:6]:
            keys.append(row)
        assert keys.rows(0, 6) == rows[:6]
        for row in rows[6:]:  # what was read does not move where the next goes
            keys.append(row)
        assert keys.of(7) == rows[7]
        assert keys.rows(3, 9) == rows[3:9]
        assert len(keys) == 10


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 8))
def test_distinct_keys_come_once_and_ascending(numbers, at_once):
    extreme = [bytes(32), b"\xff" * 32]
    with pytest.MonkeyPatch.context() as patch, PromptKeys(1) as keys:
        patch.setattr(module, "AT_ONCE", at_once)
        for one in [*map(key, numbers), *extreme, *extreme]:
            keys.append([one])
        found = [one for group in keys.distinct() for one in group]
    assert found == sorted({*map(key, numbers), *extreme})


def test_the_same_key_again_and_again_takes_no_memory(monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 1000)
    with PromptKeys(1) as keys:
        for number in range(40_000):
            keys.append([key(number % 3)])
        tracemalloc.start()
        assert sum(map(len, keys.distinct())) == 3
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10 * 1000 * module.WIDTH  # all of them are 40 times 1000


def test_no_keys():
    with PromptKeys(2) as keys:
        assert [group for group in keys.distinct() if group] == []


class Trivial:
    fingerprint = "trivial"

    def generate(self, prompts):
        return ["yes"] * len(prompts)


def _prompts(sample: int) -> list[str]:
    return [f"Long question about sample {sample // 2}", f"Short question about sample {sample}"]


def _peak(folder, count: int) -> tuple[int, int]:
    """Peak of Python's memory, bytes, and how many prompts were asked."""
    with PromptKeys(2) as keys, AnswerCache.open(folder / f"{count}.sqlite") as cache:
        asker = Asker(Trivial(), cache, budget=Budget())
        tracemalloc.start()
        plan(count, _prompts, llm=Trivial(), cache=cache, keys=keys)
        asker.ask(range(count), _prompts, keys=keys.of)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, asker.asked


def test_memory_does_not_grow_with_the_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 1000)
    monkeypatch.setattr(asking, "BLOCK", 256)
    few, asked = _peak(tmp_path, 1_000)
    assert asked == 1_500  # half of the long questions are repeated
    many, asked = _peak(tmp_path, 4_000)
    assert asked == 6_000
    assert many < 1.1 * few + 20_000


def test_of_failures_few_are_kept(tmp_path, monkeypatch):
    class Deaf(Trivial):
        def generate(self, prompts):
            raise asking.UnansweredError("no answer", [None] * len(prompts))

    monkeypatch.setattr(asking, "MOST_FAILED", 10)
    with AnswerCache.open(tmp_path / "a.sqlite") as cache:
        asker = Asker(Deaf(), cache, budget=Budget())
        asker.ask(range(50), _prompts)
    assert len(asker.failed) == 10
    assert asker.lost == 65
