"""What the command line does, in a few typed lines of Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm4sbr import pipeline, store
from llm4sbr.config import merge, nest
from llm4sbr.progress import Progress
from llm4sbr.report import REPORT

if TYPE_CHECKING:
    from llm4sbr.llms.planning import Plan
    from llm4sbr.serving.recommend import Recommender


def run(
    folder: str | Path, *, until: str = "evaluate", quiet: bool = True, **settings: Any
) -> dict[str, Any]:
    """Bring a run up to date and return what its last stage found.

    Args:
        folder: the run directory.
        until: last stage to run.
        quiet: say nothing while running.
        **settings: sections of the configuration as dictionaries (`train={"dim": 64}`) or dotted keys
            (`**{"train.dim": 64}`).

    Returns:
        The content of the stage's JSON summary; for `evaluate` that is `metrics.json` and
        where the `report` is.
    """
    chosen = merge(*(nest({key: value}) for key, value in settings.items()))
    pipeline.execute(Path(folder), chosen, until=until, progress=Progress(quiet=quiet))
    return summary(Path(folder), until)


def load(folder: str | Path, **options: Any) -> Recommender:
    """A finished run, ready to recommend; options are those of `Recommender.load`."""
    from llm4sbr.serving.recommend import Recommender

    return Recommender.load(Path(folder), **options)


def plan(folder: str | Path, *, quiet: bool = True) -> Plan | None:
    """What `infer` of a prepared run would ask, and what it takes; None where no LLM is asked."""
    from llm4sbr.questions import plan_of

    _, config = pipeline.configure(Path(folder), {})
    return plan_of(Path(folder), config, Progress(quiet=quiet))


SUMMARIES = {
    "prepare": "stats.json",
    "infer": "infer.json",
    "localize": "localize.json",
    "evaluate": "metrics.json",
}
"""The JSON file in which a stage says what it found; `train` says it per model."""


def summary(run: Path, stage: str) -> dict[str, Any]:
    """What a finished stage found."""
    if stage == "train":
        models = sorted((run / stage).glob("*/seed-*/model.json"))
        return {"models": [store.read_json(path) for path in models]}
    found: dict[str, Any] = store.read_json(run / stage / SUMMARIES[stage])
    if stage == "evaluate" and (run / REPORT).exists():
        found["report"] = str(run / REPORT)
    return found
