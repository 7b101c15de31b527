"""Stage `infer`: one answer per sample and perspective, from the LLM and from the controls.

Samples with equal prefixes count as one. If all perspectives ask about items, the samples are the items of
the catalogue, each standing for all sessions that end with it. All prompts are counted and audited before the
first one is asked. `infer.select` decides in which order samples are asked, which matters under a budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm4sbr import store
from llm4sbr.asking.ask import Work
from llm4sbr.asking.asker import parse_budget
from llm4sbr.asking.plan import noun
from llm4sbr.asking.questions import Questions
from llm4sbr.asking.sources import answered_rows, answers_of_control, answers_of_llm, control_named
from llm4sbr.config import Config, InferConfig
from llm4sbr.data.prepared import load
from llm4sbr.freshness import LLM, NONE, asked
from llm4sbr.progress import Progress
from llm4sbr.stamps import Attempt


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
        controls = {name: control_named(name, settings.seed) for name in beside}  # before anything is asked
        summary |= answers_of_llm(work)
        rows = answered_rows(questions.samples, out / LLM)
        for name, control in controls.items():
            summary["sources"][name] = answers_of_control(work, name, control, rows)
        summary |= {"samples": len(questions.samples.keys), "answered": len(rows)}
        summary["unit"] = questions.samples.unit
        _report(summary, settings, progress)
    store.write_json(out / "infer.json", summary)


def _report(summary: Mapping[str, Any], settings: InferConfig, progress: Progress) -> None:
    answered, samples = summary["answered"], summary["samples"]
    text = f"infer: {answered:,} of {samples:,} {noun(summary['unit'])} answered"
    if "asked" in summary:
        text += f"; {summary['asked']:,} prompts asked, {summary['from_cache']:,} from the cache"
    empty = sum(perspective["empty"] for perspective in summary["sources"]["llm"].values())
    if empty:
        text += f"; {empty:,} answers name nothing"
    if answered < samples and settings.budget is None and "asked" not in summary:
        text += "; there is no text about the others"
    elif answered < samples and not summary.get("failed"):
        text += f"; the budget of {settings.budget} is spent, a larger one goes on from here"
    progress.note(text)
