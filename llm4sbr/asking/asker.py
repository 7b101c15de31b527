"""Asks an LLM about many samples. Prompts with an answer in the cache are not asked, equal prompts only once.

A sample has one prompt per perspective and counts as answered when each of them has an answer. Prompts that
the LLM could not answer (`UnansweredError`) are asked again at the end; those that fail then are left to the
next run. Answers stay in the cache: memory holds one block of samples and one round of prompts at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from llm4sbr import registry
from llm4sbr.asking.cache import Answer, AnswerCache, answer_key
from llm4sbr.config.types import AMOUNT
from llm4sbr.errors import ConfigError, Llm4sbrError, UnansweredError
from llm4sbr.protocols import LLM

__all__ = ["Asker", "BatchAnswerer", "BatchAnswers", "Budget", "batch_answerer", "parse_budget", "storable"]

BLOCK = 512
"""Samples looked up in the cache at once."""

BATCHES = 16
"""Maximum number of batches per round. A round's prompts are sorted by length, so longer rounds pad less."""

ROUND = 10.0
"""Target length of a round in seconds under a time budget: the budget is checked after each round."""

BATCH = 32
"""Batch size for an LLM that does not set `batch_size`."""

SECOND_CHANCES = 2
"""How many more times failed prompts are asked at the end."""

MOST_FAILED = 10_000
"""Maximum number of failed prompts kept for another try, so that memory stays bounded if a server is down."""

LONGEST = 100_000
"""Maximum number of characters kept of an answer; what it recommends comes long before."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Budget(NamedTuple):
    """When to stop asking. Answers from the cache cost nothing."""

    prompts: int | None = None
    seconds: float | None = None


def parse_budget(text: str | None) -> Budget:
    """`20000` prompts, `90s`, `30m`, `2h`; None and `none` are no limit.

    Raises:
        ConfigError: the text is none of these.
    """
    if text is None or text == "none":
        return Budget()
    found = AMOUNT.fullmatch(text.strip())
    if not found:
        raise ConfigError(
            f"infer.budget = {text!r}: expected prompts (20000), a time (90s, 30m, 2h), or none"
        )
    amount, unit, prompts = found.groups()
    return Budget(prompts=int(prompts)) if prompts else Budget(seconds=float(amount) * UNITS[unit])


class BatchAnswers(NamedTuple):
    """Answers to one batch of prompts."""

    texts: list[str | None]
    """One per prompt, None where there is no answer."""
    seconds: float
    tokens: list[int]
    """One count per prompt: the prompt and its answer together."""
    reason: str
    """Why answers are missing, if any are."""


Keep = Callable[[str, str, int], None]
"""Called with a prompt, its answer, and the tokens of both."""


class BatchAnswerer:
    """Answers one batch of prompts with an LLM; engines run one of these per worker.

    Args:
        llm: the LLM.
        keep: keeps an answer as soon as it comes, if the LLM tells; otherwise a batch's come together.
    """

    def __init__(self, llm: LLM, keep: Keep | None = None) -> None:
        self.llm = llm
        if hasattr(llm, "answered"):
            llm.answered = keep

    def __call__(self, prompts: list[str]) -> BatchAnswers:
        """Answer some prompts.

        Raises:
            Llm4sbrError: the LLM returned a wrong number of answers, or cannot be used.
        """
        began, reason = time.monotonic(), ""
        try:
            texts: list[str | None] = list(self.llm.generate(prompts))
        except UnansweredError as error:
            texts, reason = error.answers, str(error)
        seconds = time.monotonic() - began
        if len(texts) != len(prompts):
            raise Llm4sbrError(
                f"infer: the LLM gave {len(texts)} answers to {len(prompts)} prompts; "
                "its generate() must give one per prompt"
            )
        count = getattr(self.llm, "count_tokens", lambda texts: [0] * len(texts))
        texts = [None if text is None else storable(text) for text in texts]
        pairs = zip(count(prompts), count([text or "" for text in texts]), strict=True)
        return BatchAnswers(texts, seconds, [a + b for a, b in pairs], reason)


def storable(text: str) -> str:
    """An answer that every file format can hold: invalid Unicode replaced, cut to `LONGEST` characters."""
    return text[:LONGEST].encode("utf-8", "replace").decode()


def batch_answerer(name: str, options: dict[str, Any], keep: Keep | None = None) -> BatchAnswerer:
    """Create an installed LLM, in the worker process that will use it."""
    return BatchAnswerer(registry.create("llms", name, **options), keep)


class Asker:
    """Asks for missing answers in batches and stores them in the cache.

    Args:
        llm: the LLM.
        cache: answers to everything asked before, by any run.
        budget: when to stop.
        advance: called with the number of samples processed and a status text.
        work: answers batches of prompts, in order; by default `llm` does so in this process.
        workers: number of batches that `work` answers in parallel.
    """

    def __init__(
        self,
        llm: LLM,
        cache: AnswerCache,
        *,
        budget: Budget,
        advance: Callable[..., None] = lambda n=1, note="": None,
        work: Callable[[Iterable[list[str]]], Iterator[BatchAnswers]] | None = None,
        workers: int = 1,
    ) -> None:
        self.llm = llm
        self.work = work or partial(map, BatchAnswerer(llm, self.keep))
        self.cache = cache
        self.budget = budget
        self.advance = advance
        self.asked = 0
        """Number of prompts answered by the LLM in this run."""
        self.seconds = 0.0
        """Time spent in the LLM."""
        self.tokens = 0
        """Tokens of these prompts and answers."""
        self.failed: dict[bytes, str] = {}
        """Key -> prompt of failed prompts, `MOST_FAILED` at most."""
        self.lost = 0
        """Number of failed prompts beyond these."""
        self.reason = ""
        """Why the last one failed."""
        self.found = 0
        """Number of prompts with an answer in the cache."""
        self._known: set[bytes] = set()
        self._waiting: dict[bytes, str] = {}
        self._spent = False
        self._started = self._last = time.monotonic()
        self._size: int = getattr(llm, "batch_size", BATCH)
        self._most = BATCHES * self._size * workers
        self._round = self._most if budget.seconds is None else max(1, self._size // 4)

    def ask(
        self,
        samples: Sequence[int],
        prompts: Callable[[int], Sequence[str]],
        *,
        keys: Callable[[int], Sequence[bytes]] | None = None,
    ) -> None:
        """Ask about samples, in the given order, until the budget is spent.

        Args:
            samples: sample numbers.
            prompts: returns the prompts of a sample, one per perspective.
            keys: returns the cache keys of these prompts; computed from the prompts if not given.
        """
        keys = keys or (lambda sample: [answer_key(self.llm.fingerprint, p) for p in prompts(sample)])
        for begin in range(0, len(samples), BLOCK):
            if self._spent:
                self.advance(len(samples) - begin, self._note())
                break
            self._ask_block({sample: keys(sample) for sample in samples[begin : begin + BLOCK]}, prompts)
        self._flush(0)
        for _ in range(SECOND_CHANCES):
            if self.failed and not self._spent:
                self._waiting, self.failed = self.failed, {}
                self._flush(0)

    def keep(self, prompt: str, answer: str, tokens: int) -> None:
        """Store an answer as soon as it comes; it counts when its batch is complete."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        key = answer_key(self.llm.fingerprint, prompt)
        self.cache.put_many({key: Answer(storable(answer), seconds, tokens)}, llm=self.llm.fingerprint)

    def _ask_block(self, block: dict[int, Sequence[bytes]], prompts: Callable[[int], Sequence[str]]) -> None:
        wanted = {key for keys in block.values() for key in keys}
        self._known = self.cache.known(sorted(wanted))
        self.found += len(self._known)
        looked = 0
        for sample, keys in block.items():
            if not self._known.issuperset(keys):
                self._queue(dict(zip(keys, prompts(sample), strict=True)))
            looked += 1
            if len(self._waiting) >= self._round:
                self._flush(looked)
                looked = 0
        self.advance(looked, self._note())

    def _queue(self, prompts: dict[bytes, str]) -> None:
        missing = {
            key: prompt
            for key, prompt in prompts.items()
            if not (key in self._known or key in self._waiting or key in self.failed)
        }
        if missing and not self._over(len(missing)):
            self._waiting |= missing

    def _over(self, more: int) -> bool:
        limit = self.budget.prompts
        return self._spent or (limit is not None and self.asked + len(self._waiting) + more > limit)

    def _flush(self, looked: int) -> None:
        """Ask all waiting prompts, then adapt the size of a round to the remaining time."""
        began = self._last = time.monotonic()
        waiting = sorted(self._waiting.items(), key=lambda pair: (len(pair[1]), pair[0]))
        batches = [waiting[i : i + self._size] for i in range(0, len(waiting), self._size)]
        done = self.work([prompt for _, prompt in batch] for batch in batches)
        for number, (batch, found) in enumerate(zip(batches, done, strict=True), start=1):
            answers = self._answers(batch, found)
            self.cache.put_many(answers, llm=self.llm.fingerprint)
            self.asked += len(answers)
            self._known.update(answers)
            self._keep({key: prompt for key, prompt in batch if key not in answers})
            share = looked * number // len(batches) - looked * (number - 1) // len(batches)
            self.advance(share, self._note())
        self._waiting.clear()
        if waiting and self.budget.seconds is not None:
            took = time.monotonic() - began
            fitting = round(len(waiting) * ROUND / max(took, 1e-9))
            self._round = max(1, self._size // 4, min(fitting, self._most))
            # stop if another half round would exceed the budget: too early or too late, right on average
            self._spent = time.monotonic() - self._started + took / 2 >= self.budget.seconds

    def _keep(self, failed: dict[bytes, str]) -> None:
        room = max(0, MOST_FAILED - len(self.failed))
        self.lost += max(0, len(failed) - room)
        self.failed |= dict(islice(failed.items(), room))

    def _answers(self, batch: Sequence[tuple[bytes, str]], found: BatchAnswers) -> dict[bytes, Answer]:
        """Key -> answer for the prompts of a batch that got one."""
        self.seconds += found.seconds
        self.tokens += sum(found.tokens)
        self.reason = found.reason or self.reason
        share = found.seconds / len(batch)
        given = zip(batch, found.texts, found.tokens, strict=True)
        return {key: Answer(text, share, tokens) for (key, _), text, tokens in given if text is not None}

    def _note(self) -> str:
        rate = f" at {self.asked / self.seconds:.1f}/s" if self.seconds else ""
        text = f"{self.asked:,} prompts asked{rate}, {self.found:,} from the cache"
        if self.failed:
            text += f", {len(self.failed) + self.lost:,} failed"
        if self.budget.seconds is None:
            return text
        left = max(0.0, self.budget.seconds - (time.monotonic() - self._started))
        return f"{text}, budget spent" if self._spent else f"{text}, budget ends in {left:.0f}s"
