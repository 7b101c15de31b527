"""PO4ISR: reflection on errors and the choice by UCB, with an LLM that does what its instruction says."""

from __future__ import annotations

from math import log, log2, sqrt
from random import Random

import pytest
import torch
from llm4sbr_related.candidates import LETTERS
from llm4sbr_related.po4isr import FIRST, PO4ISR, extracted, ucb

from llm4sbr import registry
from llm4sbr.errors import ConfigError
from llm4sbr.testing.baselines import BaselineContract
from llm4sbr.testing.toy import toy_catalogue, toy_sessions

ITEMS = 12
CYCLE = "take the one that follows"


class TestPO4ISR(BaselineContract):
    name = "po4isr"


class LLM:
    """Ranks as its instruction says: alphabetically, or the item that follows first if it says `CYCLE`."""

    def __init__(self, refined=f"<START>{CYCLE}<END>"):
        self.refined = refined
        self.asked = {"task": [], "reasons": [], "refine": [], "vary": []}

    def __call__(self, prompts):
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt):
        if prompt.startswith("Write a variation"):
            self.asked["vary"].append(prompt)
            return None  # the budget is spent, or the server failed
        if "Write one better" in prompt:
            self.asked["refine"].append(prompt)
            return self.refined
        if "reasons, on one line" in prompt:
            self.asked["reasons"].append(prompt)
            return "it looks\nat titles only"
        self.asked["task"].append(prompt)
        lines = prompt.splitlines()
        begin = lines.index("Candidates:") + 1
        shown = [line[3:] for line in lines[begin:-1]]
        order = list(LETTERS[: len(shown)])
        if lines[0] == CYCLE:
            after = TITLES[(TITLES.index(lines[begin - 2].partition(". ")[2]) + 1) % ITEMS]
            order.insert(0, order.pop(shown.index(after)))
        return ", ".join(order)


TITLES = toy_catalogue(ITEMS).titles


def fitted(**options):
    made = PO4ISR(ITEMS, retriever="popularity", candidates=6, **options)
    made.fit(toy_sessions(items=ITEMS, sessions=30))
    made.fit_catalogue(toy_catalogue(ITEMS), repeats=False)
    return made


def test_the_instruction_that_reflection_finds_is_taken():
    made, llm = fitted(examples=8, batch=8, errors=2), LLM()
    assert made.prompts([1])[0].startswith(FIRST)
    made.learn(llm, toy_sessions(items=ITEMS, sessions=30))
    assert made.instruction == CYCLE
    assert made.prompts([1])[0].startswith(CYCLE)
    # Two errors, each with reasons and a refinement; the two new instructions are one.
    assert [len(llm.asked[kind]) for kind in ("reasons", "refine", "vary")] == [2, 2, 2]
    assert all("The reasons may be: it looks at titles only\n" in text for text in llm.asked["refine"])
    # With it each target is first, worth 1; the first instruction leaves it where the alphabet has it.
    first = _first_reward(made)
    assert made.notes == [
        f"po4isr: mean reward on 8 training sessions {first:.3f} with the first instruction, 1.000 with the "
        f"chosen one: {CYCLE}"
    ]
    made.fit(toy_sessions(items=ITEMS, sessions=30))
    assert made.instruction == FIRST


def _first_reward(made):
    examples = made._examples(toy_sessions(items=ITEMS, sessions=30), Random(0))
    return sum(1 / log2(one.shown.index(one.target) + 2) for one in examples) / len(examples)


def test_training_sessions_have_their_target_among_the_candidates():
    made = fitted(examples=30)
    sessions = toy_sessions(items=ITEMS, sessions=30)
    examples = made._examples(sessions, Random(0))
    assert len(examples) == 30
    for number, one in enumerate(examples):
        own = sessions.items[sessions.offsets[number] : sessions.offsets[number + 1]].tolist()
        assert [*one.items, one.target] == own
        assert one.target in one.shown
        assert len(one.shown) == len(set(one.shown)) == min(6, ITEMS - len(one.items))


@pytest.mark.parametrize("refined", [None, "", "a better instruction without marks", "<START><END>"])
def test_without_a_better_instruction_the_first_stays(refined):
    made, llm = fitted(examples=8), LLM(refined)
    made.learn(llm, toy_sessions(items=ITEMS, sessions=30))
    assert made.instruction == FIRST


def test_an_llm_that_says_nothing_leaves_the_retrievers_list():
    made = fitted(examples=4)
    made.learn(lambda prompts: [None] * len(prompts), toy_sessions(items=ITEMS, sessions=30))
    assert made.instruction == FIRST
    items = torch.tensor([[3, 4]])
    alone = made.score(items, items > 0)[0]
    best = made.find([3, 4]).best
    assert made.rescored([3, 4], [""]).topk(6).indices.tolist() == [item - 1 for item in best]
    assert alone.shape == (ITEMS,)


def test_ucb_by_hand():
    # Trial 3, c 2: means 0.5 of two rewards and 0.2 of one; the one not tried yet has the highest bound.
    bounds = [0.5 + 2 * sqrt(log(3) / 3), 0.2 + 2 * sqrt(log(3) / 2), 2 * sqrt(log(3))]
    assert max(bounds) == bounds[2]
    assert ucb([[0.4, 0.6], [0.2], []], 3, 2.0) == 2
    assert ucb([[0.4, 0.6], [0.2], []], 3, 0.0) == 0  # without exploring the best mean
    assert ucb([[0.4, 0.6], [0.2]], 3, 2.0) == 0  # 1.710 against 1.682
    assert ucb([[0.4, 0.6], [0.2]], 3, 3.0) == 1  # 2.316 against 2.423


def test_what_is_extracted():
    assert extracted("I suggest <START> one\n thing <END> or <START>two") == ["one thing", "two"]
    assert extracted("nothing") == []
    (long,) = extracted("<START>" + 2_000 * "x")
    assert 900 < len(long) <= 1_000
    (safe,) = extracted("<START>rank </s> well<END>")
    assert "</s>" not in safe  # nothing that a chat template reads as control


@pytest.mark.parametrize(
    "option", [{"examples": 0}, {"beam": 0}, {"depth": -1}, {"explore": -1.0}, {"candidates": 30}], ids=str
)
def test_an_option_out_of_range_is_named(option):
    with pytest.raises(ConfigError, match=rf"^po4isr: {next(iter(option))} = "):
        registry.create("baselines", "po4isr", num_items=9, **option)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("examples", [5, 12])
def test_the_plan_knows_the_most_that_learning_can_ask(depth, examples):
    sessions = toy_sessions(items=ITEMS, sessions=30)
    made = fitted(examples=examples, depth=depth, batch=8, errors=3, beam=2, trials=4, tried=6)
    asked = []

    def ask(prompts):  # the first instruction ranks nothing; another is written each time
        asked.extend(prompts)
        new = (f"<START>try {len(asked)} {place}<END> <START>and this" for place in range(len(prompts)))
        return [
            ("" if text.startswith(FIRST) else "A, B, C, D, E, F")
            if "Answer on one line with" in text
            else one
            for text, one in zip(prompts, new, strict=True)
        ]

    made.learn(ask, sessions)
    assert len(asked) <= made.learning(sessions)
    assert depth > 1 or len(asked) == made.learning(sessions)  # in two steps, later errors are fewer
