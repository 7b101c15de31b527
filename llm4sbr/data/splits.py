"""Splits sessions or samples into training, validation and test.

`temporal` and `random` split whole sessions, before prefixes are made. The training sessions alone decide
which items exist and which are too rare; clicks of other sessions on unknown items are dropped. `paper` and
`leave-last-out` are splits from the literature, which leak information from test to training.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from llm4sbr.config import DataConfig
from llm4sbr.data import cold
from llm4sbr.data import sessions as rules
from llm4sbr.data.cold import Cold
from llm4sbr.data.sessions import ClickLog, Ints
from llm4sbr.errors import DataError

Prefixes = Literal["last", "all"]


class Known(NamedTuple):
    """How the paper treats one of its data sets (section 4.1.1 and Table 1), recognised by its size."""

    items: int
    clicks: int
    prefixes: Prefixes
    test: int
    """Number of test samples."""


PAPER = (
    Known(items=12_101, clicks=198_502, prefixes="all", test=18_000),  # Beauty
    Known(items=3_416, clicks=986_910, prefixes="last", test=5_313),  # MovieLens-1M in bins of 600 s
)


class Split(NamedTuple):
    """A log split into three parts; positions refer to the flat `log.items`."""

    log: ClickLog
    """All sessions that remain."""
    train: ClickLog
    """The training sessions."""
    samples: dict[str, tuple[Ints, Ints]]
    """`train`, `valid`, `test` -> start and end of the prefixes, not yet cut to the maximum length."""
    dropped: dict[str, int]
    """What was dropped -> how many."""
    train_prefixes: Prefixes
    """The rule that was used for training samples."""
    test_prefixes: Prefixes
    """The rule that was used for validation and test samples."""
    cold: Cold | None = None
    """Test samples on items that were held out."""


def split(log: ClickLog, config: DataConfig, *, rule: str) -> Split:
    """Split a log by `rule`: `temporal`, `random`, `paper` or `leave-last-out`.

    Raises:
        DataError: there is no training or no test sample; the message names the settings to change.
    """
    if not (log.lengths >= config.min_length).any():
        raise DataError(
            f"no session has {config.min_length} clicks or more (sessions: {len(log.lengths)}, clicks: "
            f"{len(log.items)}); choose another data.sessions or a greater data.gap_seconds"
            + (" or a smaller data.min_length" if config.min_length > 2 else "")
        )
    if config.hold_out and rule not in ("temporal", "random"):
        raise DataError(f"data.hold_out = {config.hold_out:g}: not with data.split={rule}; choose temporal")
    if rule == "paper":
        result = _paper(log, config)
    elif rule == "leave-last-out":
        result = _leave_last_out(log, config)
    else:
        result = _by_sessions(log, config, by_time=rule == "temporal")
    _check(result, config, rule, sessions=len(log.lengths))
    return result


def expand(offsets: Ints, prefixes: Prefixes) -> tuple[Ints, Ints]:
    """Start and end positions of the prefixes of all sessions.

    Args:
        offsets: (sessions + 1,), session s has the positions from `offsets[s]` to `offsets[s + 1]`.
        prefixes: `last` makes one sample per session, whose target is the last click; `all` makes one for
            each click but the first.
    """
    lengths = np.diff(offsets)
    if prefixes == "last":
        keep = lengths >= 2
        return offsets[:-1][keep], offsets[1:][keep] - 1
    start = np.repeat(offsets[:-1], lengths)
    end = np.arange(offsets[-1], dtype=np.int64)
    return start[end > start], end[end > start]


def _by_sessions(log: ClickLog, config: DataConfig, *, by_time: bool) -> Split:
    short = len(log.items)
    log = rules.drop_short(log, config.min_length)
    dropped = {"clicks of sessions too short": short - len(log.items)}
    ends = _sizes(log, config)
    if by_time:
        # Sessions that end at the same time as the first session of the next part are moved to that part, so
        # that all training sessions end earlier than it.
        ends = [
            int(np.searchsorted(log.end, log.end[end])) if 0 < end < len(log.end) else end for end in ends
        ]
    else:
        log = rules.take(log, np.random.default_rng(config.seed).permutation(len(log.lengths)))
    whole, valid, test = (rules.take(log, part) for part in np.split(np.arange(len(log.lengths)), ends))
    held = cold.held_out(log, config.hold_out, least=config.min_item_count)
    clicks = len(whole.items)
    whole = rules.keep_clicks(whole, ~held[whole.items], min_length=config.min_length)
    if config.hold_out:
        dropped["train clicks on items held out"] = clicks - len(whole.items)
    train = rules.settle(whole, config.min_item_count, min_length=config.min_length)
    known = np.zeros(len(log.keys), np.bool_)
    known[train.items] = True
    parts = [train]
    dropped["train clicks on rare items"] = len(whole.items) - len(train.items)
    for name, part in (("valid", valid), ("test", test)):
        kept = rules.keep_clicks(part, known[part.items], min_length=config.min_length)
        dropped[f"{name} clicks on items not in train"] = int((~known[part.items]).sum())
        dropped[f"{name} sessions too short without them"] = len(part.lengths) - len(kept.lengths)
        parts.append(kept)
    train_rule, test_rule = config.train_prefixes or "all", config.test_prefixes or "all"
    samples = {}
    before = 0
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        start, end = expand(part.offsets, train_rule if name == "train" else test_rule)
        samples[name] = (start + before, end + before)
        before += len(part.items)
    found = cold.samples_of(test, known, held, longest=config.max_length) if config.hold_out else None
    return Split(rules.join(parts), train, samples, dropped, train_rule, test_rule, found)


def _sizes(log: ClickLog, config: DataConfig) -> list[int]:
    """How many sessions come before the validation part, and before the test part."""
    count = len(log.lengths)
    test = max(1, round(config.test * count))
    valid = max(1, round(config.valid * count)) if config.valid else 0
    return [max(0, count - test - valid), max(0, count - test)]


def _paper(log: ClickLog, config: DataConfig) -> Split:
    """Split samples at random, without a validation part; sizes as in Table 1 for the paper's data sets.

    The paper drops items with fewer than 5 clicks, then sessions of one click, and does not repeat this (its
    3,416 items of MovieLens-1M are those of the raw log); here it is the same. Samples of one session can be
    in both parts. The training sessions are cut after the target of their last training sample.
    """
    before = len(log.items)
    log = rules.drop_rare(log, config.min_item_count, min_length=config.min_length)
    found = (len(np.unique(log.items)), len(log.items))
    known = next((one for one in PAPER if (one.items, one.clicks) == found), None)
    test_rule = config.test_prefixes or (known.prefixes if known else "all")
    train_rule = config.train_prefixes or test_rule
    start, end = expand(log.offsets, test_rule)
    size = known.test if known and known.prefixes == test_rule else round(config.test * len(end))
    test = np.sort(np.random.default_rng(config.seed).permutation(len(end))[:size])
    train_start, train_end = expand(log.offsets, train_rule)
    train = ~np.isin(train_end, end[test])
    train_start, train_end = train_start[train], train_end[train]
    last = np.full(len(log.lengths), -1, np.int64)
    np.maximum.at(last, np.searchsorted(log.offsets, train_start, side="right") - 1, train_end)
    seen = np.arange(len(log.items)) <= last[log.owner]
    none = np.zeros(0, np.int64)
    samples = {
        "train": (train_start, train_end),
        "valid": (none, none),
        "test": (start[test], end[test]),
    }
    dropped = {"clicks on rare items or in short sessions": before - len(log.items)}
    train_log = rules.keep_clicks(log, seen, min_length=1)
    return Split(log, train_log, samples, dropped, train_rule, test_rule)


def _leave_last_out(log: ClickLog, config: DataConfig) -> Split:
    """Test on the last click of each session, validate on the one before, and train on the others."""
    if config.test_prefixes == "all":
        raise DataError(
            "data.split=leave-last-out tests on a session's last click and nothing else: leave out "
            "data.test_prefixes=all, or choose another data.split"
        )
    before = len(log.items)
    log = rules.settle(log, config.min_item_count, min_length=config.min_length)
    train_rule = config.train_prefixes or "all"
    start, last = log.offsets[:-1], log.offsets[1:] - 1
    long_enough = last - start >= 2
    train = rules.keep_clicks(log, np.arange(len(log.items)) < (last - 1)[log.owner], min_length=1)
    if train_rule == "last":
        enough = last - start >= 3
        train_start, train_end = start[enough], last[enough] - 2
    else:
        train_start, train_end = expand(log.offsets, "all")
        inside = train_end < np.repeat(last - 1, np.maximum(log.lengths - 1, 0))
        train_start, train_end = train_start[inside], train_end[inside]
    samples = {
        "train": (train_start, train_end),
        "valid": (start[long_enough], last[long_enough] - 1),
        "test": (start, last),
    }
    dropped = {"clicks on rare items or in short sessions": before - len(log.items)}
    return Split(log, train, samples, dropped, train_rule, "last")


def _check(result: Split, config: DataConfig, rule: str, *, sessions: int) -> None:
    items = len(np.unique(result.train.items))
    for name in ("train", "test"):
        if not len(result.samples[name][0]):
            raise DataError(
                f"no {name} sample is left ({len(result.train.lengths)} training sessions, {items} items) of "
                f"{sessions} sessions under data.split={rule}: the data is too small or its times too equal; "
                f"add sessions{_lower(config)}"
                + ("" if rule == "random" else ", or choose --set data.split=random")
            )
    if items < 2:
        raise DataError(
            f"{items} item is left after data.min_item_count={config.min_item_count}; 2 are needed"
        )


def _lower(config: DataConfig) -> str:
    """Which thresholds could be lower, as part of a message."""
    values = {"data.min_item_count": (config.min_item_count, 1), "data.min_length": (config.min_length, 2)}
    lower = [f"{name}={least} instead of {now}" for name, (now, least) in values.items() if now > least]
    return f", take --set {' or --set '.join(lower)}" if lower else ""
