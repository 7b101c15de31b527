"""Facts for the page: cost of the run, the LLM's answers, the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm4sbr import stamps, store
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation.verdict import CONTROLS
from llm4sbr.report import quality
from llm4sbr.report.formats import count, percent
from llm4sbr.report.prepared import left_out, sizes, splits_table
from llm4sbr.report.results import cost_table, stages_table
from llm4sbr.report.table import Row


def cost(run: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Time and memory per model, and per stage."""
    done = [stamp for name in stamps.STAGE_NAMES if (stamp := stamps.read_stamp(run / name))]
    timings = {one.stage: {"seconds": one.seconds, "peak_memory": one.peak_memory} for one in done}
    return {"models": cost_table(rows) if rows else None, "stages": stages_table(timings)}


def answers(run: Path, coverage: float | None) -> dict[str, Any] | None:
    """What the LLM was asked, and statistics of its answers; None if no LLM was used.

    Args:
        run: has `infer`, and `localize` if it got so far.
        coverage: share of the test samples with an answer, as `metrics.json` has it.
    """
    found = store.read_json(run / "infer" / "infer.json")
    sources, llm = found.get("sources", {}), found.get("llm", "")
    if not sources:
        return None
    localized = run / "localize" / "localize.json"
    tied = store.read_json(localized).get("sources", {}) if localized.exists() else {}
    return {
        "intro": _coverage(found, coverage),
        "table": quality.answers_table(sources, tied, llm),
        "alone": quality.alone_table(tied, llm),
        "examples": [(name, about["example"]) for name, about in sources.get("llm", {}).items()],
        "answer": "Text of the items" if llm in CONTROLS else "Answer",
    }


def data(prepared: Prepared) -> dict[str, Any]:
    """Sizes, the rules for sessions and splits, and everything that was dropped."""
    stats = prepared.stats
    return {"sizes": sizes(stats), "left_out": left_out(stats), "splits": splits_table(stats)}


def _coverage(found: Mapping[str, Any], coverage: float | None) -> str:
    """Coverage of the answers, in words."""
    samples, answered, llm = found.get("samples"), found.get("answered"), found.get("llm")
    what = f"a text from {llm}" if llm in CONTROLS else "an answer"
    parts = []
    if samples and answered is not None:
        share = percent(answered / samples)
        parts.append(f"{count(answered)} of {count(samples)} samples of all splits have {what} ({share})")
    if coverage is not None:
        parts.append(f"{percent(coverage)} of the test samples have one")
    if found.get("budget"):
        parts.append(f"the budget was {found['budget']}")
    unasked = f"No LLM was asked; the control {llm} was used instead. " if llm in CONTROLS else ""
    return unasked + (f"{'; '.join(parts)}." if parts else "")
