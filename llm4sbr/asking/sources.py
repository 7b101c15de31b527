"""Sources of answers: the LLM and the controls, each a part of the stage `infer`, made if it is missing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from llm4sbr import registry, stamps, store
from llm4sbr.asking.ask import Counts, Work, ask
from llm4sbr.asking.questions import Questions
from llm4sbr.asking.tables import write_control
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.mapped import mapped
from llm4sbr.data.prepared import SESSIONS
from llm4sbr.errors import ConfigError
from llm4sbr.freshness import LLM
from llm4sbr.llms.recorded import Recorded
from llm4sbr.protocols import Control, is_control

ABOUT = "about.json"
"""Summary in a source's folder, which becomes part of `infer.json`."""


def answers_of_llm(work: Work) -> dict[str, Any]:
    """Answer with the LLM, if that is not done yet; returns its part of `infer.json`."""
    settings, stamp, folder = work.config.infer, work.part(LLM), work.attempt.out / LLM
    if work.attempt.has(LLM, stamp):
        work.attempt.begin()
        work.progress.note(f"infer: the answers of {settings.llm} are there already")
    elif is_control(made := registry.create("llms", settings.llm, **settings.options)):
        rows = _covered(work, made)
        work.attempt.begin()
        stamps.begin_part(folder, stamp)
        _finish(work, folder, rows, _stand_in(folder, made, work.questions, rows, None))
    else:
        found = ask(work, made, stamp, folder)
        _finish(work, folder, found.rows, found.counts, found.about)
    summary: dict[str, Any] = store.read_json(folder / ABOUT)
    return summary


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
        fit = "fits" if matched.unused == 1 else "fit"
        text = f"{matched.unused:,} of its {len(control.texts):,} texts {fit} no sample, {matched.example}"
        if about_items:
            text += "; these perspectives ask about items, --perspective long about sessions"
        work.progress.note(f"infer: {control.path}: {text}")
    return matched.rows


def answers_of_control(work: Work, name: str, control: Control, rows: Sequence[int]) -> dict[str, Any]:
    """Answer with a control, if that is not done yet; returns its part of `infer.json`."""
    stamp, folder = work.part(name), work.attempt.out / name
    if not stamps.whole(folder, stamp):
        stamps.begin_part(folder, stamp)
        counts = _stand_in(folder, control, work.questions, rows, work.attempt.out / LLM)
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


def answered_rows(samples: Distinct, folder: Path) -> Sequence[int]:
    """Rows of the samples that the LLM answered, ascending."""
    table = next(iter(sorted(folder.glob("*.parquet"))))
    keys = store.read_table(table, ["key"])["key"].to_numpy()
    found: Sequence[int] = mapped([np.flatnonzero(np.isin(samples.keys.numpy(), keys))]).numpy().data
    return found


def control_named(name: str, seed: int) -> Control:
    """The control `name`; `ConfigError` if it is an LLM."""
    seeded = "seed" in inspect.signature(registry.load("llms", name)).parameters
    control = registry.create("llms", name, **({"seed": seed} if seeded else {}))
    if not is_control(control):
        raise ConfigError(f"infer.controls: {name!r} is an LLM, not a control; give it as infer.llm")
    return control


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
