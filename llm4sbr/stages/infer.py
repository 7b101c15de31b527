"""Stage `infer`: one answer per sample and perspective, from the LLM and from the controls beside it.

Samples with equal prefixes are one sample here. Before the first question, all prompts are counted and
audited. They are asked in the order that `infer.select` wants, so that a budget goes where it should.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from llm4sbr import registry, store
from llm4sbr.asking.asker import Asker, Budget, batch_answerer, parse_budget
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.order import order as asking_order
from llm4sbr.asking.questions import Questions, open_answer_cache, plan_questions
from llm4sbr.asking.tables import answered, write_answers, write_control
from llm4sbr.config import Config, InferConfig
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import ConfigError
from llm4sbr.progress import Progress
from llm4sbr.protocols import LLM, Control, Engine, Perspective, is_control

Counts = Mapping[str, Mapping[str, int]]
"""By perspective: what a source's table holds."""


def infer(run: Path, out: Path, config: Config, progress: Progress) -> None:
    """Answer the samples in `run/prepare`.

    Writes `llm/<perspective>.parquet` with the answers of `infer.llm`, the same for every control, and
    `infer.json` with what they were and cost. Every batch of answers goes into the answer cache at once, so
    an interrupted stage asks nothing twice. With `infer.llm = "none"` there are no answers to write.

    Raises:
        ConfigError: an unusable wording, attribute, budget or control.
        RegistryError: no such LLM, control or perspective, or an option that it does not take.
        ModelUnavailableError: the LLM's weights cannot be had here.
        StoreError: `prepare` is damaged, or the answer cache cannot be used.
    """
    settings = config.infer
    summary: dict[str, Any] = {"llm": settings.llm, "sources": {}}
    if settings.llm != "none":
        prepared = load(run / "prepare")
        questions = Questions.of(prepared, settings)
        samples, perspectives = questions
        beside = [name for name in settings.controls if name not in (settings.llm, "none")]
        controls = {name: _control(name, settings.seed) for name in beside}  # before anything is asked
        model = registry.create("llms", settings.llm, **settings.options)
        rows: Sequence[int] = range(len(samples.keys))
        (out / "llm").mkdir(exist_ok=True)
        if is_control(model):
            counts = _stand_in(out / "llm", model, samples, rows, perspectives, None)
        else:
            rows, counts = _ask(run, out, model, questions, prepared, config, progress, summary)
        summary["sources"]["llm"] = _examples(out / "llm", counts, samples, rows, perspectives)
        for name, control in controls.items():
            (out / name).mkdir(exist_ok=True)
            counts = _stand_in(out / name, control, samples, rows, perspectives, out / "llm")
            summary["sources"][name] = _examples(out / name, counts, samples, rows, perspectives)
        summary |= {"samples": len(samples.keys), "answered": len(rows)}
        _report(summary, settings, progress)
    store.write_json(out / "infer.json", summary)


def _control(name: str, seed: int) -> Control:
    seeded = "seed" in inspect.signature(registry.load("llms", name)).parameters
    control = registry.create("llms", name, **({"seed": seed} if seeded else {}))
    if not is_control(control):
        raise ConfigError(f"infer.controls: {name!r} is an LLM, not a control; give it as infer.llm")
    return control


def _ask(
    run: Path,
    out: Path,
    llm: LLM,
    questions: Questions,
    prepared: Prepared,
    config: Config,
    progress: Progress,
    summary: dict[str, Any],
) -> tuple[Sequence[int], Counts]:
    """Plan, ask, and write the LLM's tables; the answered rows, and what is in the tables."""
    settings, samples, perspectives = config.infer, questions.samples, questions.perspectives
    with (
        PromptKeys(len(perspectives)) as keys,
        PromptKeys(len(perspectives)) as kept,
        open_answer_cache(settings) as cache,
    ):
        plan = plan_questions(llm, questions, prepared, settings, progress, keys=keys)
        order: Sequence[int] = range(len(samples.keys))
        if parse_budget(settings.budget) != Budget():
            order = asking_order(run, out, samples, prepared, config, progress, keys=keys)
        began = time.time()
        asker = _asked(llm, questions, order, keys, cache, config, progress)
        rows = answered(keys, cache, kept)
        about: Any = {"cache": cache, "kept": kept, "samples": samples, "rows": rows, "began": began}
        counts = {
            name: write_answers(out / "llm" / f"{name}.parquet", perspective, place, **about)
            for place, (name, perspective) in enumerate(perspectives.items())
        }
        distinct = sum(map(len, kept.distinct()))
    summary |= {
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
    return rows, counts


def _asked(
    llm: LLM,
    questions: Questions,
    order: Sequence[int],
    keys: PromptKeys,
    cache: AnswerCache,
    config: Config,
    progress: Progress,
) -> Asker:
    """Ask where the engine works, and say what was left unanswered."""
    settings = config.infer
    engine: Engine = registry.create("engines", config.engine.name, **config.engine.options)
    make = partial(batch_answerer, settings.llm, settings.options)
    with progress.task("infer", len(order), unit="samples") as advance, closing(engine):
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
    folder: Path,
    control: Control,
    samples: Distinct,
    rows: Sequence[int],
    perspectives: Mapping[str, Perspective],
    own: Path | None,
) -> Counts:
    """Write a control's tables; what is in them."""
    return {
        name: write_control(
            folder / f"{name}.parquet",
            control,
            perspective,
            samples=samples,
            rows=rows,
            own=own / f"{name}.parquet" if own else None,
        )
        for name, perspective in perspectives.items()
    }


def _examples(
    folder: Path,
    counts: Counts,
    samples: Distinct,
    rows: Sequence[int],
    perspectives: Mapping[str, Perspective],
) -> dict[str, Any]:
    """The counts with an example each, the first sample's."""
    found: dict[str, Any] = {name: {**one, "example": None} for name, one in counts.items()}
    for name, perspective in perspectives.items() if rows else ():
        table = pl.scan_parquet(folder / f"{name}.parquet").select("answer", "parsed").head(1).collect()
        prompt = perspective.prompt(samples.prefixes[rows[0]])
        found[name]["example"] = {"prompt": prompt, **table.row(0, named=True)}
    return found


def _report(summary: Mapping[str, Any], settings: InferConfig, progress: Progress) -> None:
    answered, samples = summary["answered"], summary["samples"]
    text = f"infer: {answered:,} of {samples:,} samples answered"
    if "asked" in summary:
        text += f"; {summary['asked']:,} prompts asked, {summary['from_cache']:,} from the cache"
    empty = sum(perspective["empty"] for perspective in summary["sources"]["llm"].values())
    if empty:
        text += f"; {empty:,} answers name nothing"
    if answered < samples and not summary.get("failed"):
        text += f"; the budget of {settings.budget} is spent, a larger one goes on from here"
    progress.note(text)
