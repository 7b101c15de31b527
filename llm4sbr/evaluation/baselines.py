"""The baselines' ranks: made once, and used again until the data, an option or the component changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm4sbr import registry, stamps, store
from llm4sbr.config import Config
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation.comparison import Row
from llm4sbr.evaluation.ranking import rank_all
from llm4sbr.freshness import baseline_part, part_stamp
from llm4sbr.progress import Progress
from llm4sbr.protocols import Baseline
from llm4sbr.stamps import Attempt, Stamp

RANKS, ABOUT = "ranks.safetensors", "about.json"
"""Files of a baseline's part: `ranks` int64 (M,), and how long the fit took."""


class BaselineRows:
    """The rows of the baselines that the settings name.

    Those that are missing are created at once, so that options that they do not accept are refused early.

    Args:
        run: has `prepare`.
        prepared: its data.
        config: all settings.
        attempt: the existing parts.

    Raises:
        ConfigError: an option is out of range.
        RegistryError: there is no such baseline, or it has no such option.
    """

    def __init__(self, run: Path, prepared: Prepared, config: Config, attempt: Attempt) -> None:
        self.prepared, self.config, self.out = prepared, config, attempt.out
        self.missing: dict[str, tuple[Baseline, Stamp]] = {}
        for name in config.train.baselines:
            stamp = part_stamp(run, baseline_part(name), attempt)
            if not attempt.has(baseline_part(name), stamp):
                self.missing[name] = (create(name, prepared, config), stamp)

    def rows(self, advance: Callable[[int, str], None], progress: Progress) -> list[Row]:
        """Fit and rank what is missing; returns all rows, in the table's order.

        Args:
            advance: told of each baseline's samples, and its name.
            progress: shows what baselines say about their fit.
        """
        names = self.config.train.baselines
        if there := len(names) - len(self.missing):
            progress.note(f"evaluate: {there} of {len(names)} baselines are there already")
        return [self._row(name, advance, progress) for name in names]

    def _row(self, name: str, advance: Callable[[int, str], None], progress: Progress) -> Row:
        folder = self.out / baseline_part(name)
        if name in self.missing:
            baseline, stamp = self.missing.pop(name)
            stamps.begin_part(folder, stamp)
            self._write(folder, baseline, progress)
            stamps.finish_part(folder)
        ranks = store.read_tensors(folder / RANKS)["ranks"]
        advance(len(ranks), name)
        return Row(name, "baseline", name, [ranks], [store.read_json(folder / ABOUT)])

    def _write(self, folder: Path, baseline: Baseline, progress: Progress) -> None:
        prepared = self.prepared
        started = time.perf_counter()
        baseline.fit(prepared.train)
        store.write_json(folder / ABOUT, {"seconds": round(time.perf_counter() - started, 3)})
        for note in getattr(baseline, "notes", []):
            progress.note(note)
        ranks = rank_all(
            lambda batch: baseline.score(batch.items, batch.mask),
            prepared.sessions,
            prepared.samples["test"],
            num_items=prepared.catalogue.size,
            batch_size=self.config.evaluate.batch_size,
            repeats=prepared.repeats,
        )
        store.write_tensors(folder / RANKS, {"ranks": ranks})


def create(name: str, prepared: Prepared, config: Config) -> Baseline:
    """A baseline with the options that the settings have for it, not fitted yet."""
    options: dict[str, Any] = config.train.baseline_options.get(name, {})
    made: Baseline = registry.create("baselines", name, num_items=prepared.catalogue.size, **options)
    return made
