"""Asks the LLM: plans the prompts, puts them to it within the budget, and writes its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr import registry, stamps
from llm4sbr.asking.asker import Asker, Budget, batch_answerer, parse_budget
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.order import order as asking_order
from llm4sbr.asking.plan import noun
from llm4sbr.asking.questions import Questions, open_answer_cache, plan_questions
from llm4sbr.asking.tables import answered, write_answers
from llm4sbr.config import Config
from llm4sbr.data.prepared import Prepared
from llm4sbr.engines import Local
from llm4sbr.errors import ModelUnavailableError
from llm4sbr.freshness import part_stamp
from llm4sbr.progress import Progress
from llm4sbr.protocols import LLM, Engine
from llm4sbr.stamps import Attempt, Stamp

Counts = Mapping[str, Mapping[str, int]]
"""Counts of a source's table, by perspective."""


class Work(NamedTuple):
    """What the stage `infer` works with: data, settings and progress."""

    run: Path
    config: Config
    questions: Questions
    prepared: Prepared
    progress: Progress
    attempt: Attempt

    def part(self, name: str) -> Stamp:
        """The stamp of a source."""
        return part_stamp(self.run, name, self.attempt)


class Asked(NamedTuple):
    """What came of asking."""

    rows: Sequence[int]
    """Rows of the samples that are answered, ascending."""
    counts: Counts
    about: Mapping[str, Any]
    """Plan, budget and cost, for `infer.json`."""


def ask(work: Work, llm: LLM, stamp: Stamp, folder: Path) -> Asked:
    """Plan, ask, and write the LLM's tables into `folder`, a part that begins when all checks have passed."""
    config, questions, progress = work.config, work.questions, work.progress
    settings, samples, perspectives = config.infer, questions.samples, questions.perspectives
    with (
        PromptKeys(len(perspectives)) as keys,
        PromptKeys(len(perspectives)) as kept,
        open_answer_cache(settings) as cache,
    ):
        plan = plan_questions(llm, questions, work.prepared, settings, progress, keys=keys)
        work.attempt.begin()
        stamps.begin_part(folder, stamp)
        order: Sequence[int] = range(len(samples.keys))
        if parse_budget(settings.budget) != Budget():
            order = asking_order(work.run, folder, samples, work.prepared, config, progress, keys=keys)
        began = time.time()
        asker = _put(llm, questions, order, keys, cache, config, progress)
        rows = answered(keys, cache, kept)
        about: Any = {"cache": cache, "kept": kept, "samples": samples, "rows": rows, "began": began}
        counts = {
            name: write_answers(folder / f"{name}.parquet", perspective, place, **about)
            for place, (name, perspective) in enumerate(perspectives.items())
        }
        distinct = sum(map(len, kept.distinct()))
    told = {
        "plan": plan.as_dict(),
        "fingerprint": llm.fingerprint,
        "budget": settings.budget or "none",
        "select": settings.select,
        "prompts": len(rows) * len(perspectives),
        "distinct": distinct,
        "asked": asker.asked,
        "from_cache": max(0, distinct - asker.asked),
        "failed": len(asker.failed) + asker.lost,
        "seconds": round(asker.seconds, 2),
        "tokens": asker.tokens,
    }
    return Asked(rows, counts, told)


def _put(
    llm: LLM,
    questions: Questions,
    order: Sequence[int],
    keys: PromptKeys,
    cache: AnswerCache,
    config: Config,
    progress: Progress,
) -> Asker:
    """Ask with the engine's workers, and report what was left unanswered."""
    settings = config.infer
    engine: Engine = registry.create("engines", config.engine.name, **config.engine.options)
    with progress.task("infer", len(order), unit=noun(questions.samples.unit)) as advance, closing(engine):
        asker = Asker(
            llm, cache, budget=parse_budget(settings.budget), advance=advance, workers=engine.workers
        )
        keep = asker.keep if isinstance(engine, Local) else None  # other engines' workers have no cache
        make = partial(batch_answerer, settings.llm, settings.options, keep)
        asker.work = partial(engine.map, make)
        asker.ask(order, questions.prompts, keys=keys.of)
    if asker.failed and not asker.asked + asker.found:
        raise ModelUnavailableError(
            f"infer: none of {len(asker.failed) + asker.lost:,} prompts got an answer: {asker.reason}"
        )
    if asker.failed:
        progress.note(
            f"infer: {len(asker.failed) + asker.lost:,} prompts got no answer ({asker.reason}); "
            "run infer again with --force to ask them once more"
        )
    return asker
