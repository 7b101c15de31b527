"""Says where ids mislead: sessions that start anew, and one number that is written in two ways."""

from __future__ import annotations

import polars as pl

PAUSE = 43_200.0
"""A pause of more than so many seconds is hardly inside one visit."""

OFTEN = 0.05
"""Share of the sessions with such a pause that is worth a line."""

_NUMBER = r"^0*(\d+?)(?:\.0+)?$"
"""A whole number, with zeros in front or behind its point."""


def restarts(clicks: pl.DataFrame, column: str, *, has_users: bool) -> str:
    """A line if many session ids come back after half a day, as if counted from 1 each day; or empty.

    Args:
        clicks: `session`, `time` in seconds.
        column: the sessions' column in the file.
        has_users: whether the file has users too.
    """
    times = clicks.select("session", "time").sort("session", "time")
    pauses = times.select("session", pl.col("time").diff().over("session").alias("pause"))
    longest = pauses.group_by("session").agg(pl.col("pause").max())["pause"].fill_null(0.0)
    torn = int((longest > PAUSE).sum())
    if torn < max(2, OFTEN * len(longest)):
        return ""
    apart = "--sessions gap" if has_users else f"--sessions gap --set data.options.user={column}"
    return (
        f"{torn:,} of {len(longest):,} sessions have a pause of more than half a day: do ids of {column} "
        f"start anew, or are they users? To cut them at pauses: {apart}"
    )


def spelling(clicked: pl.Series, listed: pl.Series) -> str:
    """What to say of item ids that both tables have, but as other texts, such as `7` and `007`; or empty.

    Args:
        clicked: str, ids of clicks that are not in the items table.
        listed: str, ids of the items table.
    """
    number = pl.col("id").str.extract(_NUMBER).alias("number")
    left = pl.DataFrame({"id": clicked}).with_columns(number).drop_nulls()
    right = pl.DataFrame({"id": listed}).with_columns(number).drop_nulls()
    both = left.join(right, on="number", how="inner", maintain_order="left").unique("id", maintain_order=True)
    if both.is_empty():
        return ""
    first, other = both["id"][0], both["id_right"][0]
    return (
        f"{both.height:,} of them are in it as another text, such as {first!r} and {other!r}: "
        "write ids alike in both tables (as text, without .0, with or without zeros in front)"
    )
