"""Compares what two runs would serve on the newest sessions, so that no worse model is handed over.

Both rank the same samples: the test samples of the new run whose sessions began in the newest time, without
sessions that the old model was trained on. The old model gets the clicks that it knows; a target that it does
not know is not found, as in the shop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.data.batches import sample_keys
from llm4sbr.data.prepared import SESSIONS, Prepared
from llm4sbr.errors import InputError
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.ranking import rank_all, scorer
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.protocols import Samples, Sessions

BATCH = 512
NOT_FOUND = 2**31
"""Rank of a target that is not in the catalogue."""


class Gate(NamedTuple):
    """What the comparison found."""

    tolerance: float
    """How much lower each of the new model's metrics may be, relative to the old one's."""
    samples: int
    sessions: int
    since: float | None
    """The samples' sessions began at this time or later; None if the data has no clock."""
    only_new: int
    """Samples whose target the old model does not know."""
    old: dict[str, float]
    """HR@K and MRR@K of the old model."""
    new: dict[str, float]
    """The same of the new one."""

    @property
    def passed(self) -> bool:
        """Whether the new model is not worse."""
        return all(self.new[name] >= (1 - self.tolerance) * old for name, old in self.old.items())

    def sentence(self) -> str:
        """The result in words."""
        found = ", ".join(f"{name} {old:.2%} -> {self.new[name]:.2%}" for name, old in self.old.items())
        about = f"on {self.samples:,} samples of the newest {self.sessions:,} sessions"
        verdict = "not worse" if self.passed else "worse"
        return f"{found} {about}: {verdict} (tolerance {self.tolerance:.0%})"


def compare(old: Path, new: Path, *, k: int, newest: float, tolerance: float) -> Gate:
    """Compare two runs; each with the model that would be exported.

    Args:
        old: the run whose model is served.
        new: the run whose model may take its place.
        k: length of the lists.
        newest: seconds before the last click in which a session has to begin.
        tolerance: see `Gate`.

    Raises:
        InputError: there is no sample to compare on.
        StoreError: a run is not trained or damaged.
    """
    before, after = (ReferenceModel.of(run) for run in (old, new))
    prepared = after.prepared
    samples, owners, since = _newest(old, new, before, prepared, newest)
    keys = {key: number for number, key in enumerate(before.prepared.catalogue.keys, 1)}
    known = torch.tensor([0, *(keys.get(key, 0) for key in prepared.catalogue.keys)])
    sessions, theirs, rows = translated(prepared.sessions, samples, known)
    ranks = torch.full((len(samples.key),), NOT_FOUND)
    ranks[rows] = _ranks(before, sessions, theirs)
    own = _ranks(after, prepared.sessions, samples)
    names = (f"HR@{k}", f"MRR@{k}")
    found = [{name: metrics.summary(one, (k,))[name] for name in names} for one in (ranks, own)]
    only_new = int((known[prepared.sessions.items[samples.end]] == 0).sum())
    return Gate(tolerance, len(own), len(set(owners.tolist())), since, only_new, *found)


def translated(sessions: Sessions, samples: Samples, known: Tensor) -> tuple[Sessions, Samples, Tensor]:
    """Samples in the ids of another catalogue, without clicks on items that it does not have.

    Args:
        sessions: the sessions that the samples refer to.
        samples: M samples.
        known: int64 (N + 1,), the other catalogue's id of each item, 0 for none.

    Returns:
        Sessions, samples that refer to them, and int64, which of the M these are: those whose target is
        known, and a click.
    """
    spans = list(zip(samples.start.tolist(), samples.end.tolist(), strict=True))
    mapped = known[sessions.items]
    kept: list[Tensor] = []
    rows = []
    for row, (start, end) in enumerate(spans):
        clicks = mapped[start:end]
        clicks = clicks[clicks > 0]
        if len(clicks) and mapped[end] > 0:
            rows.append(row)
            kept.append(torch.cat([clicks, mapped[end : end + 1]]))
    offsets = torch.tensor([0, *map(len, kept)]).cumsum(0)
    other = Sessions(torch.cat([*kept, mapped[:0]]), offsets)
    start, end = offsets[:-1], offsets[1:] - 1
    return other, Samples(start, end, sample_keys(other, start, end)), torch.tensor(rows, dtype=torch.int64)


def _ranks(model: ReferenceModel, sessions: Sessions, samples: Samples) -> Tensor:
    score = scorer(model.saved.model, None, torch.device("cpu"), predict=model.intent_mode == "predictor")
    size = model.prepared.catalogue.size
    repeats = model.prepared.repeats
    return rank_all(score, sessions, samples, num_items=size, batch_size=BATCH, repeats=repeats)


def _newest(
    old: Path, new: Path, before: ReferenceModel, prepared: Prepared, newest: float
) -> tuple[Samples, Tensor, float | None]:
    """The samples to compare on, their sessions, and the time since which these began."""
    test = prepared.samples["test"]
    owners = torch.searchsorted(prepared.sessions.offsets, test.start, right=True) - 1
    table = _sessions(new).with_row_index("number")
    since = prepared.stats["last_click"] - newest if prepared.stats.get("clock") else None
    recent = table if since is None else table.filter(pl.col("time") >= since)
    trained = _sessions(old)
    if not before.trained.refitted:  # which was trained on all
        trained = trained.head(len(before.prepared.train.offsets) - 1)
    unseen = recent.join(trained, on=["session", "time"], how="anti")
    allowed = torch.zeros(len(prepared.sessions.offsets), dtype=torch.bool)
    allowed[torch.from_numpy(unseen["number"].to_numpy().astype("int64"))] = True
    chosen = allowed[owners]
    if not bool(chosen.any()):
        raise InputError(
            f"{new}: no test sample of the newest {newest / 86_400:g} days that the model of {old} was not "
            "trained on, so nothing says whether the new model is worse, and the old one stays; add clicks, "
            "or raise --newest"
        )
    return Samples(*(field[chosen] for field in test)), owners[chosen], since


def _sessions(run: Path) -> pl.DataFrame:
    return store.read_table(run / "prepare" / SESSIONS, ["session", "time"])


def as_dict(gate: Gate) -> dict[str, Any]:
    """For JSON."""
    return gate._asdict() | {"passed": gate.passed, "sentence": gate.sentence()}
