"""Stage `infer`: one answer per sample and perspective, from the LLM and from the controls beside it.

Samples with equal prefixes are one sample here. Before the first question, all prompts are counted and
audited. They are asked in the order that `infer.select` wants, so that a budget goes where it should.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from llm4sbr import registry, selection, store
from llm4sbr.config import Config, InferConfig
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError
from llm4sbr.llms.answers import AnswerCache
from llm4sbr.llms.asking import Asker, answering, parse_budget
from llm4sbr.progress import Progress
from llm4sbr.protocols import LLM, Control, Engine, Perspective, is_control
from llm4sbr.questions import Questions, answers_of, planned

ROWS = 20_000
"""Answers read from the cache at once."""

COLUMNS = {
    "key": pl.Int64,
    "answer": pl.String,
    "parsed": pl.String,
    "seconds": pl.Float64,
    "tokens": pl.Int64,
    "cached": pl.Boolean,
}


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
        samples, views = questions
        beside = [name for name in settings.controls if name not in (settings.llm, "none")]
        controls = {name: _control(name, settings.seed) for name in beside}  # before anything is asked
        model = registry.create("llms", settings.llm, **settings.options)
        if is_control(model):
            rows = list(range(len(samples.keys)))
            tables = _stand_in(model, samples, rows, views, None)
        else:
            summary["plan"] = planned(model, questions, prepared, settings, progress).as_dict()
            order = selection.order(run, out, samples, prepared, config, progress)
            rows, tables, cost = _ask(model, questions, order, config, progress)
            summary |= cost
        _save(out / "llm", tables, samples, rows, views, summary)
        own = {name: table["parsed"].to_list() for name, table in tables.items()}
        for name, control in controls.items():
            tables = _stand_in(control, samples, rows, views, own)
            _save(out / name, tables, samples, rows, views, summary)
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
    llm: LLM, questions: Questions, order: Sequence[int], config: Config, progress: Progress
) -> tuple[list[int], dict[str, pl.DataFrame], dict[str, Any]]:
    """The answered rows, their table per perspective, and what asking cost."""
    views, settings = questions.views, config.infer
    engine: Engine = registry.create("engines", config.engine.name, **config.engine.options)
    make = partial(answering, settings.llm, settings.options)
    with answers_of(settings) as cache:
        with progress.task("infer", len(order), unit="samples") as advance, closing(engine):
            asker = Asker(
                llm,
                cache,
                budget=parse_budget(settings.budget),
                advance=advance,
                work=partial(engine.map, make),
                workers=engine.workers,
            )
            answered = asker.ask(order, questions.prompts)
        rows = sorted(answered)
        tables = {
            name: _answers(cache, asker.asked, [answered[row][place] for row in rows], view)
            for place, (name, view) in enumerate(views.items())
        }
    distinct = {key for keys in answered.values() for key in keys}
    cost = {
        "fingerprint": llm.fingerprint,
        "budget": settings.budget or "none",
        "select": settings.select,
        "prompts": len(rows) * len(views),
        "distinct": len(distinct),
        "asked": len(asker.asked),
        "from_cache": len(distinct - asker.asked),
        "failed": len(asker.failed),
        "seconds": round(asker.seconds, 2),
        "tokens": asker.tokens,
    }
    if asker.failed:
        progress.note(
            f"infer: {len(asker.failed):,} prompts got no answer ({asker.reason}); "
            "run infer again with --force to ask them once more"
        )
    return rows, tables, cost


def _answers(cache: AnswerCache, asked: set[bytes], keys: list[bytes], view: Perspective) -> pl.DataFrame:
    """The answers under these keys as columns, without the samples' keys; the cache is what counts."""
    parts = [pl.DataFrame(schema={name: COLUMNS[name] for name in list(COLUMNS)[1:]})]
    for begin in range(0, len(keys), ROWS):
        some = keys[begin : begin + ROWS]
        found = cache.get_many(list(set(some)))
        parsed = {key: view.parse(answer.text) for key, answer in found.items()}
        rows = [(found[k].text, parsed[k], found[k].seconds, found[k].tokens, k not in asked) for k in some]
        parts.append(pl.DataFrame(rows, schema=parts[0].schema, orient="row"))
    return pl.concat(parts)


def _stand_in(
    control: Control,
    samples: Distinct,
    rows: list[int],
    views: Mapping[str, Perspective],
    own: Mapping[str, list[str]] | None,
) -> dict[str, pl.DataFrame]:
    """A control's answers for these rows, each split by itself, so that no answer changes its split."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(samples.splits[row], []).append(place)
    tables = {}
    for name, view in views.items():
        texts = [""] * len(rows)
        for some in places.values():
            sessions = samples.prefixes.take([rows[place] for place in some])
            answers = [own[name][place] for place in some] if own else None
            for place, text in zip(some, control.answer(sessions, view, answers), strict=True):
                texts[place] = text
        column = pl.Series("answer", texts, pl.String)
        tables[name] = pl.DataFrame({"answer": column, "parsed": column}).with_columns(
            pl.lit(0.0).alias("seconds"), pl.lit(0, pl.Int64).alias("tokens"), pl.lit(False).alias("cached")
        )
    return tables


def _save(
    folder: Path,
    tables: Mapping[str, pl.DataFrame],
    samples: Distinct,
    rows: list[int],
    views: Mapping[str, Perspective],
    summary: dict[str, Any],
) -> None:
    """Write one source's tables and count what is in them into the summary."""
    folder.mkdir(exist_ok=True)
    keys = pl.Series("key", samples.keys[rows].numpy(), pl.Int64)
    summary["sources"][folder.name] = {}
    for name, table in tables.items():
        store.write_table(folder / f"{name}.parquet", table.with_columns(keys).select(list(COLUMNS)))
        summary["sources"][folder.name][name] = _counts(table) | {
            "example": {
                "prompt": views[name].prompt(samples.prefixes[rows[0]]),
                "answer": table["answer"][0],
                "parsed": table["parsed"][0],
            }
            if rows
            else None
        }


def _counts(table: pl.DataFrame) -> dict[str, Any]:
    return {
        "answers": table.height,
        "distinct": table["parsed"].n_unique(),
        "empty": int((table["parsed"] == "").sum()),
        "refused": int(((table["parsed"] == "") & (table["answer"] != "")).sum()),
        "cached": int(table["cached"].sum()),
    }


def _report(summary: Mapping[str, Any], settings: InferConfig, progress: Progress) -> None:
    answered, samples = summary["answered"], summary["samples"]
    text = f"infer: {answered:,} of {samples:,} samples answered"
    if "asked" in summary:
        text += f"; {summary['asked']:,} prompts asked, {summary['from_cache']:,} from the cache"
    empty = sum(view["empty"] for view in summary["sources"]["llm"].values())
    if empty:
        text += f"; {empty:,} answers name nothing"
    if answered < samples and not summary.get("failed"):
        text += f"; the budget of {settings.budget} is spent, a larger one goes on from here"
    progress.note(text)
