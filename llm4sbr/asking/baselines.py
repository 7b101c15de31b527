"""Asks an LLM for baselines that ask one, about a part of the test samples.

As in `infer`, answers come from the cache first, equal prompts are asked once, a budget ends the asking, and
an interrupted run goes on where it stopped; a plan says beforehand what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from llm4sbr import registry
from llm4sbr.asking.asker import Asker, parse_budget
from llm4sbr.asking.cache import Answer, AnswerCache, answer_key
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.plan import LETTERS, Plan, plan, sentence
from llm4sbr.asking.questions import open_answer_cache
from llm4sbr.available import check_baselines
from llm4sbr.config import Config
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import ModelUnavailableError
from llm4sbr.evaluation.asked import Answers, AskingBaseline, asking
from llm4sbr.evaluation.baselines import Questioner, create, fit
from llm4sbr.progress import Progress
from llm4sbr.protocols import LLM

__all__ = ["Interview", "ask_for", "chosen", "plan_baselines", "questioner"]


class Interview(NamedTuple):
    """One baseline that asks one LLM, with the cache open."""

    name: str
    baseline: AskingBaseline
    llm: LLM
    asker: Asker
    cache: AnswerCache
    got: dict[bytes, Answer]
    """The answers used so far, to distinct prompts."""

    def ask(self, prompts: Sequence[str]) -> list[str | None]:
        """See `evaluation.asked.Ask`."""
        self.asker.ask(range(len(prompts)), lambda number: [prompts[number]])
        return self.found(prompts)

    def found(self, prompts: Sequence[str]) -> list[str | None]:
        """The cached answers."""
        keys = [answer_key(self.llm.fingerprint, prompt) for prompt in prompts]
        there = self.cache.get_many(sorted(set(keys)))
        self.got.update(there)
        return [there[key].text if key in there else None for key in keys]


@contextmanager
def _interview(
    name: str, baseline: AskingBaseline, config: Config, advance: Callable[..., None]
) -> Iterator[Interview]:
    with open_answer_cache(config.infer) as cache:
        llm = _llm(baseline, config)
        asker = Asker(llm, cache, budget=parse_budget(config.evaluate.budget), advance=advance)
        yield Interview(name, baseline, llm, asker, cache, {})


def _llm(baseline: AskingBaseline, config: Config) -> LLM:
    """The LLM of the settings, as the baseline reads it."""
    llm: LLM = registry.create("llms", config.evaluate.llm, **config.evaluate.llm_options)
    reader: Callable[[LLM], LLM] | None = getattr(baseline, "reader", None)
    return reader(llm) if reader else llm


def chosen(samples: int, most: int) -> list[int]:
    """At most `most` of the numbers below `samples`, at random but always the same, ascending."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    return sorted(order[:most].tolist())


def ask_for(
    name: str, baseline: AskingBaseline, say: Callable[[str], None], *, prepared: Prepared, config: Config
) -> Answers:
    """Ask the LLM about test samples, for one fitted baseline.

    Args:
        name: its name.
        baseline: fitted.
        say: told how far it is.
        prepared: the data.
        config: LLM, number of samples, budget.

    Raises:
        ModelUnavailableError: no prompt got an answer.
    """
    samples = prepared.samples["test"]
    numbers = chosen(len(samples.key), config.evaluate.samples)

    def prompts(place: int) -> list[str]:
        return baseline.prompts(prepared.prefix(samples, numbers[place]))

    with _interview(name, baseline, config, lambda n=1, note="": say(note)) as interview:
        if hasattr(baseline, "learn"):
            cast(Any, baseline).learn(interview.ask, prepared.train)
        interview.asker.ask(range(len(numbers)), prompts)
        texts = {}
        for place, number in enumerate(numbers):
            found = interview.found(prompts(place))
            if None not in found:
                texts[number] = cast(list[str], found)
        _check(interview, config)
        reach = _reach(baseline, texts, prepared)
        return Answers(texts, _about(interview, len(numbers), len(texts), config) | {"reach": reach})


def _check(interview: Interview, config: Config) -> None:
    asker = interview.asker
    if asker.failed and not interview.got:
        raise ModelUnavailableError(
            f"train.baselines: {interview.name} got no answer to {len(asker.failed) + asker.lost:,} prompts: "
            f"{asker.reason}; fewer candidates or a shorter history make prompts shorter "
            f"(train.baseline_options.{interview.name})"
        )


def _reach(baseline: AskingBaseline, answered: Collection[int], prepared: Prepared) -> float | None:
    """Share of the answered samples whose target is among the candidates: no answer finds more than that."""
    if not hasattr(baseline, "candidates") or not answered:
        return None
    samples = prepared.samples["test"]
    candidates = cast(Any, baseline).candidates
    inside = sum(
        int(prepared.sessions.items[samples.end[one]]) in candidates(prepared.prefix(samples, one))
        for one in answered
    )
    return inside / len(answered)


def _about(interview: Interview, samples: int, answered: int, config: Config) -> dict[str, Any]:
    """What asking took. Seconds and tokens are those of all answers, whenever they were given."""
    baseline, asker, got = interview.baseline, interview.asker, interview.got.values()
    return {
        "llm": config.evaluate.llm,
        "fingerprint": interview.llm.fingerprint,
        "over": getattr(baseline, "over", ""),
        "samples": samples,
        "answered": answered,
        "budget": config.evaluate.budget or "none",
        "prompts": len(got),
        "from_cache": max(0, len(got) - asker.asked),
        "failed": len(asker.failed) + asker.lost,
        "seconds": round(sum(one.seconds for one in got), 2),
        "tokens": sum(one.tokens for one in got),
        "cost": _cost(interview.llm, got),
    }


def _cost(llm: LLM, answers: Any) -> float | None:
    """Price of the answers, if the LLM has a price and counts tokens; an answer's own are estimated."""
    price = getattr(llm, "price", None)
    if price is None:
        return None
    answered = sum(min(one.tokens, len(one.text) / LETTERS) for one in answers)
    asked = sum(one.tokens for one in answers) - answered
    return float(round((asked * price[0] + answered * price[1]) / 1e6, 2))


def plan_baselines(run: Path, config: Config, progress: Progress) -> dict[str, Plan]:
    """What the baselines that ask an LLM would ask of a prepared run, by name; asks nothing.

    What a baseline asks while it learns depends on the answers: `Plan.learning` is the most that it can ask.

    Raises:
        The same errors as `evaluate` before its first question.
    """
    check_baselines(config)
    prepared, found = load(run / "prepare"), {}
    for name in config.train.baselines:
        baseline = create(name, prepared, config)
        if asking(baseline):
            fit(baseline, prepared)
            found[name] = _plan(baseline, prepared, config)
            progress.note(f"evaluate: {name}: {sentence(found[name], config.evaluate.budget)}")
    return found


def _plan(baseline: AskingBaseline, prepared: Prepared, config: Config) -> Plan:
    samples = prepared.samples["test"]
    numbers = chosen(len(samples.key), config.evaluate.samples)
    texts = [text for one in numbers for text in baseline.prompts(prepared.prefix(samples, one))]
    most = parse_budget(config.evaluate.budget).prompts
    with open_answer_cache(config.infer) as cache, PromptKeys(1) as keys:
        llm = _llm(baseline, config)
        found = plan(len(texts), lambda i: [texts[i]], llm=llm, cache=cache, keys=keys, most=most)
    learning = cast(Any, baseline).learning(prepared.train) if hasattr(baseline, "learn") else 0
    return found._replace(samples=len(numbers), learning=learning)


def questioner(prepared: Prepared, config: Config) -> Questioner:
    """What `BaselineRows` asks with."""
    return partial(ask_for, prepared=prepared, config=config)
