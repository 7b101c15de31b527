"""Groups single clicks into sessions.

The clicks of a user or session are sorted by time; clicks with equal times keep the order of the source file.
Several clicks of one user or session on the same item at the same time, and at the same place in an order if
there is one, count as one; the others are dropped and their number is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

Rule = Literal["session", "user", "gap", "bins"]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

TIED = 0.05
"""Share of clicks with the time of the click before that is worth a line."""


class ClickLog(NamedTuple):
    """Sessions before there is a catalogue; session s is `items[offsets[s]:offsets[s + 1]]`, oldest first."""

    items: Ints
    """(clicks,), positions in `keys`."""
    offsets: Ints
    """(sessions + 1,), starts at 0."""
    start: NDArray[np.float64]
    """(sessions,), time of the first click."""
    end: NDArray[np.float64]
    """(sessions,), time of the last click."""
    names: pl.Series
    """str (sessions,), names of the sessions."""
    keys: pl.Series
    """str, item keys, in the order of their first click in the source."""

    @property
    def lengths(self) -> Ints:
        """(sessions,), number of clicks of each session."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> Ints:
        """(clicks,), the session of each click."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def default_rule(raw: RawData) -> Rule:
    """`session` if there is a session column, else `gap` if there are times, else `user`."""
    if "session" in raw.interactions.columns:
        return "session"
    return "user" if raw.ordered_only else "gap"


def cut(raw: RawData, rule: Rule, *, seconds: float) -> tuple[ClickLog, int]:
    """Divide a raw log into sessions.

    Args:
        raw: at least one click.
        rule: `session`: by the session column; `user`: all clicks of a user are one session; `gap`: a pause
            of more than `seconds` starts a new session of the user; `bins`: one session per user and
            `floor(time / seconds)`.
        seconds: for `gap` and `bins`.

    Returns:
        The sessions, ordered by the time of their last click (without times, by first occurrence), and how
        many repeated clicks were dropped.

    Raises:
        DataError: the log lacks the column that the rule needs, or `gap` or `bins` is used without times.
    """
    owner = "session" if rule == "session" else "user"
    _check(raw, rule, owner)
    clicks, owners, keys = _coded(raw.interactions, owner)
    before = clicks.height
    clicks = clicks.unique(keep="first", maintain_order=True)
    repeats = before - clicks.height
    clicks = clicks.sort("owner", "time", maintain_order=True)
    who, times = clicks["owner"].to_numpy(), clicks["time"].cast(pl.Float64).to_numpy()
    first = np.flatnonzero(_starts(who, times, rule, seconds))
    offsets = np.append(first, len(who)).astype(np.int64)
    log = ClickLog(
        clicks["item"].to_numpy().astype(np.int64),
        offsets,
        times[first],
        times[offsets[1:] - 1],
        _names(owners, who[first], numbered=rule in ("gap", "bins")),
        keys,
    )
    return (log if raw.ordered_only else take(log, np.argsort(log.end, kind="stable"))), repeats


def ties(raw: RawData, rule: Rule, *, advise: bool = True) -> str:
    """A line if many clicks have the time of another one and only the file orders them; else empty.

    `advise`: whether the reader has an option for a column with their order.
    """
    owner = "session" if rule == "session" else "user"
    if raw.ordered_only or "order" in raw.interactions.columns or owner not in raw.interactions.columns:
        return ""
    clicks = raw.interactions.select(pl.col(owner).alias("owner"), "time", "item")
    clicks = clicks.unique(maintain_order=True).sort("owner", "time", maintain_order=True)
    same = pl.all_horizontal(pl.col("owner", "time") == pl.col("owner", "time").shift())
    marked = clicks.select(
        same.fill_null(False).alias("tied"), (pl.col("item") > pl.col("item").shift()).alias("up")
    )
    tied = marked.filter("tied")
    share = tied.height / max(1, clicks.height)
    if share < TIED:
        return ""
    rises = tied["up"].mean()
    sorted_by_item = tied.height >= 20 and isinstance(rises, float) and (rises > 0.95 or rises < 0.05)
    danger = ", AND IT IS SORTED BY ITEM THERE, which says nothing about time" if sorted_by_item else ""
    return (
        f"{share:.1%} of the clicks have the time of the click before: the file's order decides{danger}"
        + ("; a column with their order: --set data.options.order=COLUMN" if advise else "")
    )


def take(log: ClickLog, chosen: Ints | Mask) -> ClickLog:
    """Select sessions, by number (the result has their order) or by mask."""
    numbers = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
    lengths = log.lengths[numbers]
    offsets = _offsets(lengths)
    positions = np.repeat(log.offsets[numbers] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return log._replace(
        items=log.items[positions],
        offsets=offsets,
        start=log.start[numbers],
        end=log.end[numbers],
        names=log.names[numbers],
    )


def join(logs: Sequence[ClickLog]) -> ClickLog:
    """Concatenate the sessions of several logs that have the same `keys`."""
    return ClickLog(
        np.concatenate([log.items for log in logs]),
        _offsets(np.concatenate([log.lengths for log in logs])),
        np.concatenate([log.start for log in logs]),
        np.concatenate([log.end for log in logs]),
        pl.concat([log.names for log in logs]),
        logs[0].keys,
    )


def keep_clicks(log: ClickLog, keep: Mask, *, min_length: int) -> ClickLog:
    """Keep the clicks where `keep` (clicks,) is true, then drop the sessions that became too short."""
    lengths = np.bincount(log.owner[keep], minlength=len(log.lengths))
    shorter = log._replace(items=log.items[keep], offsets=_offsets(lengths))
    return drop_short(shorter, min_length)


def drop_short(log: ClickLog, min_length: int) -> ClickLog:
    """Keep the sessions of at least `min_length` clicks."""
    long_enough = log.lengths >= min_length
    return log if long_enough.all() else take(log, long_enough)


def drop_rare(log: ClickLog, min_item_count: int, *, min_length: int) -> ClickLog:
    """Drop clicks on items with fewer than `min_item_count` clicks, then sessions that became too short."""
    counts = np.bincount(log.items, minlength=len(log.keys))
    return keep_clicks(log, counts[log.items] >= min_item_count, min_length=min_length)


def settle(log: ClickLog, min_item_count: int, *, min_length: int) -> ClickLog:
    """Repeat `drop_rare` until nothing changes, since dropping sessions can make more items rare."""
    while True:
        fewer = drop_rare(log, min_item_count, min_length=min_length)
        if len(fewer.items) == len(log.items):
            return fewer
        log = fewer


def thin(
    log: ClickLog, *, sample: float | None, max_sessions: int | None, min_length: int, seed: int
) -> ClickLog:
    """Keep only a part of the sessions, to try things on less data.

    Args:
        log: all sessions.
        sample: share of the sessions that are kept at random; None keeps all.
        max_sessions: of these, the maximum number of latest sessions that are kept; None keeps all.
        min_length: shorter sessions are dropped first, if anything is.
        seed: of the random choice.
    """
    if sample is None and max_sessions is None:
        return log
    log = drop_short(log, min_length)
    count = len(log.lengths)
    if sample is not None:
        size = max(1, round(sample * count)) if count else 0
        chosen = np.random.default_rng(seed).choice(count, size, replace=False, shuffle=False)
        log = take(log, np.sort(chosen))
    if max_sessions is not None and len(log.lengths) > max_sessions:
        log = take(log, np.arange(len(log.lengths) - max_sessions, len(log.lengths)))
    return log


def _check(raw: RawData, rule: Rule, owner: str) -> None:
    timed = [] if raw.ordered_only else ["gap", "bins"]
    with_users = ["user", *timed] if "user" in raw.interactions.columns else []
    usable = ["session"] * ("session" in raw.interactions.columns) + with_users
    if rule in usable:
        return
    lacks = "timestamps" if rule in ("gap", "bins") and raw.ordered_only else f"a {owner} column"
    raise DataError(
        f"data.sessions={rule} needs {lacks}, which this data has not; use --sessions "
        + " or --sessions ".join(usable)
    )


def _coded(clicks: pl.DataFrame, owner: str) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Number owners and items by first occurrence; also returns the texts by number."""
    texts = {}
    order = [name for name in clicks.columns if name == "order"]
    out = clicks.select(pl.col(owner).alias("owner"), "item", "time", *order)
    for name in ("owner", "item"):
        known = out.select(pl.col(name).unique(maintain_order=True)).with_row_index("code")
        texts[name] = known[name]
        out = out.join(known, on=name, how="left", maintain_order="left").drop(name).rename({"code": name})
    return out, texts["owner"], texts["item"]


def _starts(who: NDArray[np.uint32], times: NDArray[np.float64], rule: Rule, seconds: float) -> Mask:
    """Which clicks are the first of a session."""
    starts = np.ones(len(who), np.bool_)
    starts[1:] = who[1:] != who[:-1]
    if rule == "gap":
        starts[1:] |= np.diff(times) > seconds
    elif rule == "bins":
        starts[1:] |= np.diff(np.floor(times / seconds)) != 0
    return starts


def _names(owners: pl.Series, who: NDArray[np.uint32], *, numbered: bool) -> pl.Series:
    """The owner's name for each session; with `numbered`, followed by the session's number, from 1."""
    names = owners[who.astype(np.int64)].alias("session")
    if not numbered:
        return names
    table = pl.DataFrame({"session": names, "who": who})
    number = pl.int_range(1, pl.len() + 1).over("who")
    return table.select(pl.format("{}/{}", "session", number).alias("session"))["session"]


def _offsets(lengths: Ints) -> Ints:
    return np.append(0, np.cumsum(lengths)).astype(np.int64)
