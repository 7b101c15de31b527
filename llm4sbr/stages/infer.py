"""Stage `infer`: one answer per sample and perspective, from the LLM and from the controls.

Samples with equal prefixes count as one. If all perspectives ask about items, the samples are the items of
the catalogue, each standing for all sessions that end with it. All prompts are counted and audited before the
first one is asked. `infer.select` decides in which order samples are asked, which matters under a budget.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from llm4sbr import registry, stamps, store
from llm4sbr.asking.asker import Asker, Budget, batch_answerer, parse_budget
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.order import order as asking_order
from llm4sbr.asking.plan import noun
from llm4sbr.asking.questions import Questions, open_answer_cache, plan_questions
from llm4sbr.asking.tables import answered, write_answers, write_control
from llm4sbr.config import Config, InferConfig
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.mapped import mapped
from llm4sbr.data.prepared import SESSIONS, Prepared, load
from llm4sbr.errors import ConfigError
from llm4sbr.freshness import LLM as LLM_PART
from llm4sbr.freshness import NONE, asked, part_stamp
from llm4sbr.llms.recorded import Recorded
from llm4sbr.progress import Progress
from llm4sbr.protocols import LLM, Control, Engine, is_control
from llm4sbr.stamps import Attempt, Stamp

ABOUT = "about.json"
"""Summary in a source's folder, which becomes part of `infer.json`."""

Counts = Mapping[str, Mapping[str, int]]
"""Counts of a source's table, by perspective."""


def infer(run: Path, out: Path, config: Config, progress: Progress, attempt: Attempt | None = None) -> None:
    """Answer the samples in `run/prepare`.

    Writes `llm/<perspective>.parquet` with the answers of `infer.llm`, the same for every control, and
    `infer.json` with what they were and cost. Sources that are there already are kept. Every batch of answers
    goes into the answer cache at once, so an interrupted stage asks nothing twice. With `infer.llm = "none"`
    there are no answers to write.

    Args:
        run: has `prepare`.
        out: the folder to write.
        config: all settings.
        progress: shows the samples answered.
        attempt: the existing parts; called when all checks have passed.

    Raises:
        ConfigError: an unusable wording, attribute, budget or control.
        RegistryError: no such LLM, control or perspective, or an option that it does not take.
        ModelUnavailableError: the LLM's weights cannot be had here.
        StoreError: `prepare` is damaged, or the answer cache cannot be used.
    """
    settings, attempt = config.infer, attempt or Attempt.alone(out, "infer")
    summary: dict[str, Any] = {"llm": settings.llm, "sources": {}}
    if settings.llm == NONE:
        attempt.begin()
    else:
        prepared = load(run / "prepare")
        questions = Questions.of(prepared, settings)
        work = Work(run, config, questions, prepared, progress, attempt)
        parse_budget(settings.budget)
        _, *beside = asked("infer", config)
        controls = {name: _control(name, settings.seed) for name in beside}  # before anything is asked
        summary |= _answers_of_llm(work)
        rows = _rows(questions.samples, out / LLM_PART)
        for name, control in controls.items():
            summary["sources"][name] = _source(work, name, control, rows)
        summary |= {"samples": len(questions.samples.keys), "answered": len(rows)}
        summary["unit"] = questions.samples.unit
        _report(summary, settings, progress)
    store.write_json(out / "infer.json", summary)


class Work(NamedTuple):
    """What the stage works with: data, settings and progress."""

    run: Path
    config: Config
    questions: Questions
    prepared: Prepared
    progress: Progress
    attempt: Attempt

    def part(self, name: str) -> Stamp:
        """The stamp of a source."""
        return part_stamp(self.run, name, self.attempt)


def _answers_of_llm(work: Work) -> dict[str, Any]:
    """Answer with the LLM, if that is not done yet; returns its part of `infer.json`."""
    settings, stamp, folder = work.config.infer, work.part(LLM_PART), work.attempt.out / LLM_PART
    if work.attempt.has(LLM_PART, stamp):
        work.attempt.begin()
        work.progress.note(f"infer: the answers of {settings.llm} are there already")
    elif is_control(made := registry.create("llms", settings.llm, **settings.options)):
        rows = _covered(work, made)
        work.attempt.begin()
        stamps.begin_part(folder, stamp)
        _finish(work, folder, rows, _stand_in(folder, made, work.questions, rows, None))
    else:
        _ask(work, made, stamp, folder)
    found: dict[str, Any] = store.read_json(folder / ABOUT)
    return found


def _covered(work: Work, control: Control) -> Sequence[int]:
    """Rows of the samples that a control answers: all, or those that a recorded table has answers for."""
    samples, prepared = work.questions.samples, work.prepared
    if not isinstance(control, Recorded):
        return range(len(samples.keys))
    about_items = work.questions.about_items
    if about_items:  # every sample is one item here, and belongs to no session
        sessions = [""] * len(samples.keys)
    else:
        ids = store.read_table(work.run / "prepare" / SESSIONS, ["session"])["session"]
        owner = torch.searchsorted(prepared.sessions.offsets, samples.end, right=True) - 1
        sessions = ids.gather(owner.numpy()).to_list()
    matched = control.match(samples.prefixes, sessions.__getitem__, work.questions.perspectives)
    if matched.unused:
        text = f"{matched.unused:,} of its {len(control.texts):,} texts fits no sample"
        if about_items:
            text += "; these perspectives ask about items, --perspective long about sessions"
        work.progress.note(f"infer: {control.path}: {text}")
    return matched.rows


def _source(work: Work, name: str, control: Control, rows: Sequence[int]) -> dict[str, Any]:
    """Answer with a control, if that is not done yet; returns its part of `infer.json`."""
    stamp, folder = work.part(name), work.attempt.out / name
    if not stamps.whole(folder, stamp):
        stamps.begin_part(folder, stamp)
        counts = _stand_in(folder, control, work.questions, rows, work.attempt.out / LLM_PART)
        _finish(work, folder, rows, counts)
    found: dict[str, Any] = store.read_json(folder / ABOUT)["sources"][name]
    return found


def _finish(
    work: Work, folder: Path, rows: Sequence[int], counts: Counts, about: Mapping[str, Any] = {}
) -> None:
    """Mark a source as finished, and save its summary in its folder, in case it is reused later."""
    told = {"sources": {folder.name: _examples(folder, counts, work.questions, rows)}, **about}
    store.write_json(folder / ABOUT, told)
    stamps.finish_part(folder)


def _rows(samples: Distinct, folder: Path) -> Sequence[int]:
    """Rows of the samples that the LLM answered, ascending."""
    table = next(iter(sorted(folder.glob("*.parquet"))))
    keys = store.read_table(table, ["key"])["key"].to_numpy()
    found: Sequence[int] = mapped([np.flatnonzero(np.isin(samples.keys.numpy(), keys))]).numpy().data
    return found


def _control(name: str, seed: int) -> Control:
    seeded = "seed" in inspect.signature(registry.load("llms", name)).parameters
    control = registry.create("llms", name, **({"seed": seed} if seeded else {}))
    if not is_control(control):
        raise ConfigError(f"infer.controls: {name!r} is an LLM, not a control; give it as infer.llm")
    return control


def _ask(work: Work, llm: LLM, stamp: Stamp, folder: Path) -> None:
    """Plan, ask, and write the LLM's tables."""
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
        asker = _asked(llm, questions, order, keys, cache, config, progress)
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
    _finish(work, folder, rows, counts, told)


def _asked(
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
    make = partial(batch_answerer, settings.llm, settings.options)
    with progress.task("infer", len(order), unit=noun(questions.samples.unit)) as advance, closing(engine):
        asker = Asker(
            llm,
            cache,
            budget=parse_budget(settings.budget),
            advance=advance,
            work=partial(engine.map, make),
            workers=engine.workers,
        )
        asker.ask(order, questions.prompts, keys=keys.of)
    if asker.failed:
        progress.note(
            f"infer: {len(asker.failed) + asker.lost:,} prompts got no answer ({asker.reason}); "
            "run infer again with --force to ask them once more"
        )
    return asker


def _stand_in(
    folder: Path, control: Control, questions: Questions, rows: Sequence[int], own: Path | None
) -> Counts:
    """Write a control's tables; returns their counts."""
    return {
        name: write_control(
            folder / f"{name}.parquet",
            control,
            perspective,
            samples=questions.samples,
            rows=rows,
            own=own / f"{name}.parquet" if own else None,
        )
        for name, perspective in questions.perspectives.items()
    }


def _examples(folder: Path, counts: Counts, questions: Questions, rows: Sequence[int]) -> dict[str, Any]:
    """The counts with an example each: the first sample's."""
    found: dict[str, Any] = {name: {**one, "example": None} for name, one in counts.items()}
    for name, perspective in questions.perspectives.items() if rows else ():
        table = pl.scan_parquet(folder / f"{name}.parquet").select("answer", "parsed").head(1).collect()
        prompt = perspective.prompt(questions.samples.prefixes[rows[0]])
        found[name]["example"] = {"prompt": prompt, **table.row(0, named=True)}
    return found


def _report(summary: Mapping[str, Any], settings: InferConfig, progress: Progress) -> None:
    answered, samples = summary["answered"], summary["samples"]
    text = f"infer: {answered:,} of {samples:,} {noun(summary['unit'])} answered"
    if "asked" in summary:
        text += f"; {summary['asked']:,} prompts asked, {summary['from_cache']:,} from the cache"
    empty = sum(perspective["empty"] for perspective in summary["sources"]["llm"].values())
    if empty:
        text += f"; {empty:,} answers name nothing"
    if answered < samples and not summary.get("failed"):
        text += f"; the budget of {settings.budget} is spent, a larger one goes on from here"
    progress.note(text)
