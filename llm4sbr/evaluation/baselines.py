"""The baselines' ranks: made once, and used again until the data, an option or the component changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from llm4sbr import registry, stamps, store
from llm4sbr.available import check_baselines
from llm4sbr.config import Config
from llm4sbr.data.batches import Batch
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.asked import Answers, AskingBaseline, asking, compared, with_answers
from llm4sbr.evaluation.comparison import Row
from llm4sbr.evaluation.ranking import rank_all
from llm4sbr.freshness import baseline_part, part_stamp
from llm4sbr.intents import IntentStore
from llm4sbr.progress import Progress
from llm4sbr.protocols import Baseline, Localization, Samples
from llm4sbr.stamps import Attempt, Stamp
from llm4sbr.system import memory

RANKS, ABOUT = "ranks.safetensors", "about.json"
"""Files of a baseline's part: `ranks` int64 (M,) of the test samples; and how long the fit took, the metrics
on the validation samples, and whether the baseline can be served. Of a baseline that asks an LLM also the
ranks `alone`, without answers, and which samples have answers, `asked` bool (M,)."""

Questioner = Callable[[str, AskingBaseline, Callable[[str], None]], Answers]
"""Asks the LLM about test samples for a fitted baseline, given by name and itself, and says how far it is."""

VALID_KS = (5, 10, 20)
"""K of the validation metrics, as of trained models."""

ITEMS, ANSWERS = "localize/items.safetensors", "localize/llm"
"""In the run: the items' text vectors, and the LLM's intents."""


class BaselineRows:
    """The rows of the baselines that the settings name.

    Those that are missing are created at once, so that options that they do not accept are refused early.

    Args:
        run: has `prepare`.
        prepared: its data.
        config: all settings.
        attempt: the existing parts.
        ask: asks for baselines that ask an LLM.

    Raises:
        ConfigError: an option is out of range, or a baseline needs texts or an LLM that the run does not
            have.
        RegistryError: there is no such baseline, or it has no such option.
    """

    def __init__(
        self, run: Path, prepared: Prepared, config: Config, attempt: Attempt, ask: Questioner
    ) -> None:
        self.run, self.prepared, self.config, self.out, self.ask = run, prepared, config, attempt.out, ask
        check_baselines(config)
        self.answered: dict[str, Tensor] = {}
        """Of baselines that ask an LLM, bool (M,): the test samples with answers; filled by `rows`."""
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
            self._write(folder, baseline, progress, lambda note: advance(0, f"{name}: {note}"))
            stamps.finish_part(folder)
        found, about = store.read_tensors(folder / RANKS), store.read_json(folder / ABOUT)
        advance(len(found["ranks"]), name)
        label = name
        if "asked" in found:
            about["asked"] |= compared(found, self.prepared, self.config.evaluate.k)
            label = f"{name} over {about['asked']['over']}" if about["asked"]["over"] else name
            self.answered[name] = found["asked"]
        return Row(name, "baseline", label, [found["ranks"]], [about])

    def _write(
        self, folder: Path, baseline: Baseline, progress: Progress, say: Callable[[str], None]
    ) -> None:
        prepared = self.prepared
        memory.reset_peak()
        started = time.perf_counter()
        fit(baseline, prepared)
        if getattr(baseline, "needs_text", False):
            cast(Any, baseline).fit_text(store.read_tensors(self.run / ITEMS)["items"])
        seconds = round(time.perf_counter() - started, 3)
        about: dict[str, Any] = {"seconds": seconds, "valid": {}, "linear": is_linear(baseline)}
        found: dict[str, Tensor] = {}
        if asking(baseline):
            found["alone"] = self._ranks(self._scorer(baseline, prepared.samples["test"]), "test")
            answers = self.ask(folder.name, baseline, say)
            found["asked"] = answers.asked(len(found["alone"]))
            found["ranks"] = self._ranks(with_answers(baseline, answers), "test")
            about["asked"] = answers.about
        else:
            valid, found["ranks"] = (
                self._ranks(self._scorer(baseline, prepared.samples[split]), split)
                for split in ("valid", "test")
            )
            about["valid"] = metrics.summary(valid, VALID_KS) if len(valid) else {}
        for note in getattr(baseline, "notes", []):
            progress.note(note)
        about["peak_memory"] = memory.peak()
        store.write_json(folder / ABOUT, about)
        store.write_tensors(folder / RANKS, found)

    def _ranks(self, score: Callable[[Batch], Tensor], split: str) -> Tensor:
        return rank_all(
            score,
            self.prepared.sessions,
            self.prepared.samples[split],
            num_items=self.prepared.catalogue.size,
            batch_size=self.config.evaluate.batch_size,
            repeats=self.prepared.repeats,
        )

    def _scorer(self, baseline: Baseline, samples: Samples) -> Callable[[Batch], Tensor]:
        """Scores float (B, N) of a batch of samples, with the LLM's answers if the baseline needs them."""
        if not getattr(baseline, "needs_answers", False):
            return lambda batch: baseline.score(batch.items, batch.mask)
        intents = IntentStore.open(self.run / ANSWERS)
        rows = intents.rows_of(self.prepared.sessions, samples)

        def score(batch: Batch) -> Tensor:
            own = rows[batch.index]
            answers = Localization(*intents.located(own), intents.gather(own))
            found: Tensor = cast(Any, baseline).score(batch.items, batch.mask, answers)
            return found

        return score


def fit(baseline: Baseline, prepared: Prepared) -> None:
    """Fit a baseline on the training sessions, and with the items' texts if it asks an LLM."""
    baseline.fit(prepared.train)
    if asking(baseline):
        baseline.fit_catalogue(prepared.catalogue, repeats=prepared.repeats)


def is_linear(baseline: Baseline) -> bool:
    """Whether its scores are sums of item weights over clicks, as `protocols.Baseline` says."""
    return hasattr(baseline, "neighbours") and hasattr(baseline, "decay")


def create(name: str, prepared: Prepared, config: Config) -> Baseline:
    """A baseline with the options that the settings have for it, not fitted yet."""
    options: dict[str, Any] = config.train.baseline_options.get(name, {})
    made: Baseline = registry.create("baselines", name, num_items=prepared.catalogue.size, **options)
    return made
