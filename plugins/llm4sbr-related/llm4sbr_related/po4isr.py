"""PO4ISR (Sun et al. 2023): the LLM improves its instruction by reflecting on errors, then ranks list-wise.

    reward(p, s) = 1 / log2(place + 1)    place of the session's target in the LLM's ranking; 0 if not named
    beam         = the best instructions p after trials t = 1, 2 ..., each of which asks with
                   argmax over p of mean reward(p) + c sqrt(ln t / (n_p + 1))      (UCB)
    answer       = the instruction with the highest mean reward on all examples

n_p is the number of sessions that p was tried on. Each step of the search takes the prompts of the beam; for
each it ranks a batch of training sessions, has the LLM give reasons for some of the errors (targets in the
lower half), write a better instruction, and variations of that.

Differences from the paper: candidates are a retriever's, with the target put in for training sessions only,
not sampled ones; the parents stay in the race; the mean reward is a mean (the released code adds each trial's
reward divided by n_p). The first instruction asks for the paper's four steps in words of our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import log, log2, sqrt
from random import Random
from typing import Any, NamedTuple

from torch import Tensor

from llm4sbr.errors import ConfigError
from llm4sbr.evaluation.asked import Ask
from llm4sbr.perspectives.parsing import one_line
from llm4sbr.protocols import Sessions
from llm4sbr_related.answers import letters
from llm4sbr_related.candidates import Reranker
from llm4sbr_related.ranking import named_first

FIRST = (
    "Find items in the session that belong together. Infer from each such group what the user wanted. Choose "
    "the intent that describes best what the user wants now. Rank the candidates by this intent."
)
"""The instruction that is improved."""

TASK = """{instruction}
Session, oldest item first:
{session}
Candidates:
{candidates}
Answer on one line with the letters of all {count} candidates only, the most likely next choice first, \
separated by commas."""

REASONS = """This instruction tells an assistant how to rank candidates for a user's next choice:
{instruction}
It ranked wrongly in this case:
{case}
Give {count} reasons, on one line, why the instruction may have led to a wrong ranking."""

REFINE = """This instruction tells an assistant how to rank candidates for a user's next choice:
{instruction}
It ranked wrongly in this case:
{case}
The reasons may be: {reasons}
Write one better instruction, on one line, between <START> and <END>."""

VARY = """Write a variation of this instruction that keeps its meaning, on one line:
{instruction}"""

LONGEST = 1_000
"""Characters kept of what the LLM writes: reasons, an instruction."""


class Example(NamedTuple):
    """A training session to learn from."""

    items: list[int]
    """Catalogue ids, without the target."""
    shown: list[int]
    """The candidates as a prompt shows them, the target among them."""
    target: int


class PO4ISR(Reranker):
    """Ranks the candidates list-wise, by an instruction that the LLM improved on training sessions.

    What is asked while it learns depends on the answers; `learning` is the most that it can be.

    Args:
        num_items: N.
        retriever: the baseline that finds the candidates.
        retriever_options: its options.
        candidates: C, at most 26.
        history: number of a session's most recent items in a prompt.
        examples: training sessions to learn from (the released code: 50).
        depth: steps of the search (2).
        batch: sessions that are ranked to find errors (16).
        errors: errors reflected on (16).
        reasons: reasons that the LLM gives for each (2).
        variations: variations of each new instruction (2).
        beam: instructions that go on to the next step (5).
        trials: trials of the choice by UCB (16).
        tried: sessions per trial (32).
        explore: c (2).
        seed: chooses sessions and the first trial.

    Raises:
        ConfigError: a number is out of range, or the retriever cannot find candidates by itself.
    """

    component = "po4isr"

    def __init__(
        self,
        num_items: int,
        *,
        retriever: str = "slist",
        retriever_options: Mapping[str, Any] | None = None,
        candidates: int = 10,
        history: int = 20,
        examples: int = 16,
        depth: int = 1,
        batch: int = 16,
        errors: int = 4,
        reasons: int = 2,
        variations: int = 1,
        beam: int = 2,
        trials: int = 8,
        tried: int = 8,
        explore: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_items,
            retriever=retriever,
            retriever_options=retriever_options,
            candidates=candidates,
            history=history,
        )
        least = {"examples": examples, "batch": batch, "errors": errors, "reasons": reasons}
        least |= {"beam": beam, "trials": trials, "tried": tried}
        for name, value in least.items():
            if value < 1:
                raise ConfigError(f"po4isr: {name} = {value}: must be at least 1")
        for name, amount in {"depth": depth, "variations": variations, "explore": explore}.items():
            if amount < 0:
                raise ConfigError(f"po4isr: {name} = {amount}: must not be negative")
        self.examples, self.depth, self.batch, self.errors = examples, depth, batch, errors
        self.reasons, self.variations, self.beam = reasons, variations, beam
        self.trials, self.tried, self.explore, self.seed = trials, tried, explore, seed
        self.instruction = FIRST
        self.notes: list[str] = []

    def fit(self, sessions: Sessions) -> None:
        """Fit the retriever, and begin with the first instruction again."""
        super().fit(sessions)
        self.instruction, self.notes = FIRST, []

    def prompts(self, items: Sequence[int]) -> list[str]:
        """One prompt with the instruction and all candidates."""
        return [self._task(self.instruction, items, self.find(items).shown)]

    def rescored(self, items: Sequence[int], answers: Sequence[str]) -> Tensor:
        """float32 (N,): the candidates as the answer names them, those that it leaves out behind."""
        found, (answer,) = self.find(items), answers
        return found.reordered(named_first(found, answer))

    def learn(self, ask: Ask, sessions: Sessions) -> None:
        """Improve the instruction on training sessions."""
        random = Random(self.seed)
        examples = self._examples(sessions, random)
        if not examples:
            return
        beam = [FIRST]
        for _ in range(self.depth):
            children = [child for one in beam for child in self._children(one, examples, ask, random)]
            beam = self._best(list(dict.fromkeys([*beam, *children])), examples, ask, random)
        last = list(dict.fromkeys([FIRST, *beam]))
        means = [_mean(self._rewards(one, examples, ask)) for one in last]
        self.instruction = last[means.index(max(means))]
        self.notes = [
            f"po4isr: mean reward on {len(examples)} training sessions {means[0]:.3f} with the first "
            f"instruction, {max(means):.3f} with the chosen one: {self.instruction}"
        ]

    def learning(self, sessions: Sessions) -> int:
        """The most prompts that `learn` can ask; equal ones and right rankings make it fewer."""
        examples = len(self._examples(sessions, Random(self.seed)))
        batch, tried = min(self.batch, examples), min(self.tried, examples)
        each = batch + min(self.errors, batch) * (2 + self.variations)  # of an instruction's children
        parents = 1 + max(0, self.depth - 1) * self.beam if self.depth else 0
        last = 1 + self.beam if self.depth else 1
        return parents * each + self.depth * self.trials * tried + last * examples

    def _examples(self, sessions: Sessions, random: Random) -> list[Example]:
        long_enough = (sessions.offsets.diff() > 1).nonzero().flatten().tolist()
        some = sorted(random.sample(long_enough, min(self.examples, len(long_enough))))
        return [self._example(sessions.items[sessions.offsets[i] : sessions.offsets[i + 1]]) for i in some]

    def _example(self, session: Tensor) -> Example:
        *items, target = session.tolist()
        best = self.find(items).best
        best = best if target in best else [*best[:-1], target]
        return Example(items, sorted(best, key=lambda item: (self.title(item), item)), target)

    def _task(self, instruction: str, items: Sequence[int], shown: Sequence[int]) -> str:
        case = {"session": self.session(items), "candidates": self.lettered(shown), "count": len(shown)}
        return TASK.format(instruction=instruction, **case)

    def _places(self, instruction: str, examples: Sequence[Example], ask: Ask) -> list[int | None]:
        """The targets' places in the LLM's rankings, from 1; None where it does not name them."""
        answers = ask([self._task(instruction, one.items, one.shown) for one in examples])
        found: list[int | None] = []
        for one, answer in zip(examples, answers, strict=True):
            named = [one.shown[place] for place in letters(answer or "", len(one.shown))]
            found.append(named.index(one.target) + 1 if one.target in named else None)
        return found

    def _rewards(self, instruction: str, examples: Sequence[Example], ask: Ask) -> list[float]:
        return [1 / log2(place + 1) if place else 0.0 for place in self._places(instruction, examples, ask)]

    def _children(self, instruction: str, examples: Sequence[Example], ask: Ask, random: Random) -> list[str]:
        """Better instructions, from the errors that this one makes."""
        batch = random.sample(examples, min(self.batch, len(examples)))
        places = self._places(instruction, batch, ask)
        pairs = zip(batch, places, strict=True)
        wrong = [one for one, place in pairs if place is None or place > len(one.shown) / 2]
        wrong = random.sample(wrong, min(self.errors, len(wrong)))
        cases = [
            f"Session:\n{self.session(one.items)}\nCandidates:\n{self.lettered(one.shown)}" for one in wrong
        ]
        about = {"instruction": instruction, "count": self.reasons}
        reasons = ask([REASONS.format(case=case, **about) for case in cases])
        reasoned = zip(cases, reasons, strict=True)
        refined = ask(
            [
                REFINE.format(instruction=instruction, case=case, reasons=one_line(reason or "", LONGEST))
                for case, reason in reasoned
            ]
        )
        better = [one for answer in refined for one in extracted(answer or "")[:1]]  # one was asked for
        # The cache gives equal prompts equal answers, so each variation is one of the one before.
        found, newest = list(better), better
        for _ in range(self.variations):
            varied = ask([VARY.format(instruction=one) for one in newest])
            newest = [one_line(answer, LONGEST) for answer in varied if answer and answer.strip()]
            found += newest
        return found

    def _best(
        self, instructions: Sequence[str], examples: Sequence[Example], ask: Ask, random: Random
    ) -> list[str]:
        """The beam: the instructions with the highest mean reward after all trials."""
        rewards: list[list[float]] = [[] for _ in instructions]
        for trial in range(1, self.trials + 1):
            some = random.sample(examples, min(self.tried, len(examples)))
            place = random.randrange(len(instructions)) if trial == 1 else ucb(rewards, trial, self.explore)
            rewards[place] += self._rewards(instructions[place], some, ask)
        order = sorted(range(len(instructions)), key=lambda one: -_mean(rewards[one]))
        return [instructions[one] for one in order[: self.beam]]


def ucb(rewards: Sequence[Sequence[float]], trial: int, explore: float) -> int:
    """The instruction to try: the first with the highest upper bound; see the module."""
    bounds = [_mean(own) + explore * sqrt(log(trial) / (len(own) + 1)) for own in rewards]
    return bounds.index(max(bounds))


def extracted(answer: str) -> list[str]:
    """The instructions between <START> and <END> in an answer; the last may be cut off before its end."""
    found = re.findall(r"<START>(.*?)(?:<END>|$)", answer, re.DOTALL)
    return [text for one in found if (text := one_line(one, LONGEST))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
