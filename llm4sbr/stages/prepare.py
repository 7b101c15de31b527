"""Stage `prepare`: from a raw log to catalogue, sessions and samples of three splits."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from llm4sbr import registry
from llm4sbr.config import Config, DataConfig
from llm4sbr.data import catalogue as catalogues
from llm4sbr.data import cold, splits
from llm4sbr.data import prepared as files
from llm4sbr.data import sessions as rules
from llm4sbr.data.batches import sample_keys
from llm4sbr.data.prepared import Prepared
from llm4sbr.data.readers import identity
from llm4sbr.data.repeats import RARE, repeat_share
from llm4sbr.data.sessions import ClickLog
from llm4sbr.data.splits import Split
from llm4sbr.errors import DataError
from llm4sbr.progress import Progress
from llm4sbr.protocols import Catalogue, RawData, Samples, Sessions
from llm4sbr.stamps import Attempt

SHOWN = 5
"""Maximum number of rejected rows that are shown and kept in the statistics."""

OVERLAP = 0.1
"""Share of test sessions that began while others were still trained on, from which on it is said."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


def prepare(run: Path, out: Path, config: Config, progress: Progress, attempt: Attempt | None = None) -> None:
    """Write the data of a run into `out`.

    Args:
        run: the run directory; nothing in it is read.
        out: folder to write into.
        config: its section `data`.
        progress: shows what was decided, dropped or repaired.
        attempt: called when all checks have passed, before anything is written.

    Raises:
        DataError: input that cannot be used, or nothing left of it; file, row and field are named.
        StoreError: `out` cannot be written.
    """
    data = config.data
    raw = _read(data, progress)
    rule = data.sessions or rules.default_rule(raw)
    split_rule = _split_rule(data, raw, progress)
    orders = "order" in inspect.signature(registry.load("readers", data.reader)).parameters
    if doubt := rules.ties(raw, rule, advise=orders):
        progress.note(doubt)
    log, repeats = rules.cut(raw, rule, seconds=data.gap_seconds)
    whole = len(log.lengths)
    log = rules.thin(
        log, sample=data.sample, max_sessions=data.max_sessions, min_length=data.min_length, seed=data.seed
    )
    untaken = whole - len(log.lengths)
    split = splits.split(log, data, rule=split_rule)
    _note_overlap(split, split_rule, raw.ordered_only, progress)
    catalogue, codes, mended, table = _catalogue(split, raw, progress)
    result = _assemble(split, catalogue, codes, data)
    dropped = {
        "repeated clicks": repeats,
        "sessions too short or not taken (data.sample, data.max_sessions)": untaken,
        **split.dropped,
        "samples cut to their last clicks (data.max_length)": _cut(split, data.max_length),
    }
    _tell(progress, "left out", dropped)
    _tell(progress, "mended", mended)
    _tell(progress, "in the items table", table)
    share = repeat_share(result.sessions, result.samples["train"])
    listed = share >= RARE if data.repeats == "auto" else data.repeats == "yes"
    _note_repeats(progress, data, share, listed=listed)
    stats = _stats(raw, log, split, result, data) | {
        "rules": _rules(data, rule, split_rule, split) | {"repeats": listed},
        "repeat_share": round(share, 6),
        "dropped": dropped,
        "mended": mended,
        "items_table": table,
    }
    if attempt:
        attempt.begin()
    files.save(
        out,
        result._replace(stats=stats),
        names=split.log.names,
        times=pl.Series(split.log.start, dtype=pl.Float64),
    )
    if split.cold is not None:
        keys = split.log.keys[sorted(set(split.cold.targets))]
        cold.save(out, split.cold, split.log.keys, codes.numpy(), catalogues.build(keys, raw.items)[0])


def _read(data: DataConfig, progress: Progress) -> RawData:
    reader = registry.create("readers", data.reader, path=data.path, **data.options)
    if hasattr(reader, "progress"):
        reader.progress = progress
    raw: RawData = reader.read()
    for note in raw.notes:
        progress.note(note)
    if raw.rejected and data.strict:
        raise DataError(f"{raw.rejected[0]} (data.strict; {len(raw.rejected):,} rows cannot be read)")
    if raw.rejected:
        progress.note(f"{len(raw.rejected):,} rows cannot be read and are left out, the first ones:")
        for line in raw.rejected[:SHOWN]:
            progress.note(f"  {line}")
    return raw


def _tell(progress: Progress, what: str, counts: dict[str, int]) -> None:
    shown = [f"{count:,} {name}" for name, count in counts.items() if count]
    if shown:
        progress.note(f"{what}: {'; '.join(shown)}")


def _note_repeats(progress: Progress, data: DataConfig, share: float, *, listed: bool) -> None:
    decided = "" if data.repeats == "auto" else f" (data.repeats={data.repeats})"
    progress.note(
        f"{share:.1%} of the training targets repeat an item of their session: lists "
        f"{'may contain' if listed else 'leave out'} a session's own items{decided}"
    )


def _split_rule(data: DataConfig, raw: RawData, progress: Progress) -> str:
    if data.split == "temporal" and raw.ordered_only:
        raise DataError(
            "data.split=temporal needs timestamps and this data has an order only: "
            "use --set data.split=random, --set data.split=paper or --set data.split=leave-last-out"
        )
    if data.split is None and raw.ordered_only:
        progress.note("the data has no clock: whole sessions are split at random (data.split=random)")
        return "random"
    if data.split == "leave-last-out":
        progress.note(
            "data.split=leave-last-out lets training see clicks that are later than those it is tested on: "
            "its numbers are too good"
        )
    return data.split or "temporal"


def _note_overlap(split: Split, rule: str, ordered_only: bool, progress: Progress) -> None:
    """Whole histories of users overlap in time, which sessions of half an hour hardly do."""
    if rule != "temporal" or ordered_only:
        return
    tested = np.unique(split.log.owner[split.samples["test"][0]])
    early = split.log.start[tested] < split.train.end.max()
    if early.mean() > OVERLAP:
        progress.note(
            f"{early.sum():,} of {len(tested):,} test sessions began before the last training click, so some "
            "training clicks are later than what is tested; shorter sessions (data.sessions) overlap less"
        )


def _catalogue(
    split: Split, raw: RawData, progress: Progress
) -> tuple[Catalogue, torch.Tensor, dict[str, int], dict[str, int]]:
    """The catalogue, each item code's catalogue id (0 if dropped), what was mended, what the table lacks."""
    used = np.unique(split.log.items)
    keys = split.log.keys[used]
    catalogue, mended = catalogues.build(keys, raw.items)
    absent = mended["items not in the items table"]
    alike = (
        identity.spelling(keys.filter(~keys.is_in(raw.items["item"].implode())), raw.items["item"])
        if absent
        else ""
    )
    if absent == catalogue.size:
        raise DataError(
            f"none of the {catalogue.size:,} items clicked is in the items table: clicks are on "
            f"{keys[0]!r} and the like, the table has {raw.items['item'][0]!r} and the like"
            f"{'; ' if alike else ''}{alike}"
        )
    if alike:
        progress.note(f"{absent:,} items are not in the items table; {alike}")
    order = pl.DataFrame({"item": catalogue.keys}).with_row_index("id", offset=1)
    ids = pl.DataFrame({"item": keys}).join(order, on="item", how="left", maintain_order="left")["id"]
    codes = torch.zeros(len(split.log.keys), dtype=torch.int64)
    codes[torch.from_numpy(used)] = torch.from_numpy(ids.cast(pl.Int64).to_numpy().copy())
    return catalogue, codes, mended, _table_lacks(catalogue, raw)


def _table_lacks(catalogue: Catalogue, raw: RawData) -> dict[str, int]:
    """How many items of the table nobody clicked, and how many of the catalogue lack each attribute."""
    clicked = raw.interactions["item"].unique()
    listed = raw.items["item"].unique()
    counts = {"items that nobody clicked": int((~listed.is_in(clicked.implode())).sum())}
    for name in raw.items.columns:
        if name not in ("item", "title"):
            values = catalogue.attributes.get(name, [""] * catalogue.size)  # one that no item has is dropped
            counts[f"items without {name}"] = sum(value == "" for value in values)
    return counts


def _cut(split: Split, longest: int) -> int:
    """How many samples of all splits have more clicks than a model reads."""
    return sum(int((end - start > longest).sum()) for start, end in split.samples.values())


def _assemble(split: Split, catalogue: Catalogue, codes: torch.Tensor, data: DataConfig) -> Prepared:
    sessions = _sessions(split.log, codes)
    samples = {}
    for name, (start, end) in split.samples.items():
        first, last = torch.from_numpy(np.maximum(start, end - data.max_length)), torch.from_numpy(end)
        samples[name] = Samples(first, last, sample_keys(sessions, first, last))
    return Prepared(catalogue, sessions, _sessions(split.train, codes), samples, {})


def _sessions(log: ClickLog, codes: torch.Tensor) -> Sessions:
    return Sessions(codes[torch.from_numpy(log.items)], torch.from_numpy(log.offsets))


def _rules(data: DataConfig, rule: str, split_rule: str, split: Split) -> dict[str, Any]:
    return {
        "sessions": rule,
        "gap_seconds": data.gap_seconds if rule in ("gap", "bins") else None,
        "split": split_rule,
        "train_prefixes": split.train_prefixes,
        "test_prefixes": split.test_prefixes,
        "max_length": data.max_length,
    }


def _stats(raw: RawData, log: ClickLog, split: Split, result: Prepared, data: DataConfig) -> dict[str, Any]:
    """The content of `stats.json`.

    On top the data set as the paper's Table 1 counts it (rare items dropped once, then short sessions);
    `splits` holds what is really trained and tested on.
    """
    table = rules.drop_rare(log, data.min_item_count, min_length=data.min_length)
    lengths = table.lengths
    return {
        "sessions": len(lengths),
        "clicks": len(table.items),
        "items": len(np.unique(table.items)),
        "average_length": round(float(lengths.mean()) - 1, 2) if len(lengths) else None,
        "average_length_with_target": round(float(lengths.mean()), 2) if len(lengths) else None,
        "length_quantiles": {str(q): float(np.quantile(lengths, q)) for q in QUANTILES}
        if len(lengths)
        else {},
        "catalogue": result.catalogue.size,
        "samples": sum(len(one.end) for one in result.samples.values()),
        "splits": {name: _part(split, name) for name in files.SPLITS},
        "clock": not raw.ordered_only,
        "first_click": float(log.start.min()),
        "last_click": float(log.end.max()),
        "rows": raw.interactions.height + len(raw.rejected),
        "rejected": len(raw.rejected),
        "rejected_first": raw.rejected[:SHOWN],
    }


def _part(split: Split, name: str) -> dict[str, int]:
    """The sessions that a split's samples come from, with all their clicks, and the samples."""
    start = split.samples[name][0]
    owners = np.unique(np.searchsorted(split.log.offsets, start, side="right") - 1)
    return {"sessions": len(owners), "clicks": int(split.log.lengths[owners].sum()), "samples": len(start)}
