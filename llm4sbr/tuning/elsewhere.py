"""A search whose models are trained by an engine's workers, such as Ray's.

The workers and this process communicate only through the study's journal and the folders of the trials, so
all of them need the run's folder under the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing

import optuna

from llm4sbr import registry
from llm4sbr.config import build
from llm4sbr.protocols import Engine
from llm4sbr.tuning import study as studies
from llm4sbr.tuning.work import Search, search

LOCAL = "local"
"""The engine that is none: processes of this machine."""

LOOK = 0.5
"""Seconds between two looks at the study."""


def on_engine(
    name: str, jobs: Sequence[Search], study: optuna.Study, going: Callable[[int, int, str], None]
) -> None:
    """Train the trials of `search` elsewhere.

    Args:
        name: of kind `engines`; it takes `workers`. Its other options are those of the run, if that uses it.
        jobs: one per worker.
        study: of the search.
        going: called with a job's index (here always 0), the number of trials just done, and a text.

    Raises:
        Llm4sbrError: raised by the search, or by the engine.
    """
    configured = build(dict(jobs[0].settings)).engine
    options = configured.options if configured.name == name else {}
    engine: Engine = registry.create("engines", name, **{"workers": len(jobs)} | options)
    told = len(studies.counted(study))
    with closing(engine), ThreadPoolExecutor(1) as pool:
        working = pool.submit(lambda: [*engine.map(searching, jobs)])
        finished = False
        while not finished:
            finished = bool(wait([working], timeout=LOOK).done)
            for trial in studies.counted(study)[told:]:
                value = "" if trial.value is None else f": {100 * trial.value:.2f}%"
                going(0, 1, f"trial {trial.number}, {trial.state.name.lower()}{value}")
                told += 1
        working.result()


def searching() -> Callable[[Search], None]:
    """The work of an engine's worker: takes part in a search until it ends."""
    return lambda job: search(job, lambda *_: None)
