from __future__ import annotations

import pytest

from llm4sbr.asking.cache import Answer, AnswerCache, answer_key
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.plan import Plan, sentence
from llm4sbr.asking.plan import plan as plan_with

PROMPTS = [["a" * 40, "b" * 40], ["a" * 40, "c" * 40], ["d" * 40, "d" * 40]]


class Teller:
    fingerprint = "teller"
    max_new_tokens = 6

    def generate(self, prompts):
        raise AssertionError("a plan asks nothing")


class Dear(Teller):
    price = (1_000_000.0, 10_000_000.0)


def plan(samples, prompts, **options) -> Plan:
    with PromptKeys(2) as keys:
        return plan_with(samples, prompts, keys=keys, **options)


@pytest.fixture
def cache(tmp_path):
    with AnswerCache.open(tmp_path / "answers.sqlite") as opened:
        yield opened


def test_counts_by_hand(cache):
    found = plan(3, PROMPTS.__getitem__, llm=Teller(), cache=cache)
    assert (found.samples, found.prompts, found.distinct, found.cached, found.ask) == (3, 6, 4, 0, 4)
    assert found.tokens == 4 * (40 / 4 + 6)  # four characters a token, and the longest answer
    assert found.seconds is found.cost is None


def test_the_cache_is_counted_and_tells_how_long_an_answer_takes(cache):
    known = {
        answer_key("teller", "a" * 40): Answer("x", 2.0, 30),
        answer_key("other", "b" * 40): Answer("", 9, 9),
    }
    cache.put_many(known)
    found = plan(3, PROMPTS.__getitem__, llm=Teller(), cache=cache, most=2)
    assert (found.cached, found.ask, found.within_budget) == (1, 3, 2)
    assert found.tokens == 2 * 30
    assert found.seconds == 4.0
    assert "1 answered before; 3 to ask, 2 within the budget" in sentence(found)


def test_the_price_is_that_of_prompts_and_answers(cache):
    found = plan(3, PROMPTS.__getitem__, llm=Dear(), cache=cache)
    assert found.cost == pytest.approx(4 * (10 * 1 + 6 * 10))
    assert "280.00 at the LLM's price" in sentence(found)


def test_nothing_to_ask(cache):
    found = plan(0, PROMPTS.__getitem__, llm=Teller(), cache=cache)
    assert found.ask == found.tokens == 0
    assert sentence(found).endswith("0 to ask")
