"""Converts the times of a log, in any common format, to seconds or to an order."""

from __future__ import annotations

import re

import polars as pl

from llm4sbr.errors import DataError

_FORMATS = (
    *("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%dT%H:%M", "%Y-%m-%d"),
)
_UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
_DIGITS = ((8, "%Y%m%d"), (14, "%Y%m%d%H%M%S"))
"""Dates written as one number, by number of digits; read as seconds or milliseconds they would be absurd."""

_PROBE = 1000
"""Number of rows that decide the format of a column."""

_SECONDS = {"milliseconds": 1e-3, "seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
"""Units that `time_format` may name."""

_YEAR, _LEAP = re.compile(r"%[YyGgCDFcxs+]"), "1972"
"""Directives that hold a year; the year that stands in where there is none, which has a 29 February."""

_EARLY = 31_536_000
"""Seconds of 1970: a log whose times all lie in it counts from a start, or in another unit."""


def times(
    column: pl.Series, *, clock: bool, form: str | None = None, where: str, advise: bool = True
) -> tuple[pl.Series, list[str]]:
    """Seconds (Float64) or an order (Int64), null if missing; and one line per decision taken.

    Args:
        column: numbers, text, dates or categories.
        clock: true for times, false for an order.
        form: format for strptime, or the unit that numbers count; None recognises numbers and ISO 8601.
        where: file and column, for messages.
        advise: whether the reader has the option `time_format`.

    Raises:
        DataError: the column has another type, or `form` is not a format.
    """
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6, []
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null)):
        raise DataError(f"{where}: holds {column.dtype}; numbers, dates or text are needed")
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    if clock and form in _SECONDS:
        return column.cast(pl.Float64, strict=False) * _SECONDS[form], []
    if clock and form is not None and not _YEAR.search(form):
        dated = _formatted(f"{_LEAP} " + column.cast(pl.String), f"%Y {form}")
        return dated, [f"the times have no year: all are taken for one, {_LEAP}"]
    if clock and form is not None:
        return _formatted(column.cast(pl.String), form), []
    numbers = column.cast(pl.Float64, strict=False)
    if clock and column.dtype == pl.String:
        first = column.drop_nulls().head(_PROBE)  # the majority decides; exceptions are broken rows
        if first.cast(pl.Float64, strict=False).null_count() > len(first) / 2:
            return _dates(column), []
    numbers = pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series()
    return _seconds(numbers, advise=advise) if clock else (_order(numbers), [])


def places(column: pl.Series, *, where: str) -> tuple[pl.Series, list[str]]:
    """An order (Int64), null where it cannot be read: of numbers, dates, times of day or categories of them.

    Raises:
        DataError: most values are none of these.
    """
    found, notes = times(column, clock=False, where=where)
    if column.dtype == pl.String and 2 * found.null_count() > len(found):
        text = column.str.strip_chars()
        found = text.str.to_time("%H:%M:%S%.f", strict=False).cast(pl.Int64)
        if found.null_count() == len(found):
            found = (_dates(text) * 1e6).cast(pl.Int64)
        if 2 * found.null_count() > len(found):
            raise DataError(
                f"{where}: most of its values are no numbers, dates or times of day, so they give no order; "
                "name another column with data.options.order, or none with --set data.options.order="
            )
    if found.dtype.is_float():  # dates
        found = (found * 1e6).cast(pl.Int64)
    if found.null_count():
        name = where.rpartition(" ")[2]
        notes.append(f"{name}: {found.null_count():,} values cannot be read; their clicks come last")
    return found, notes


def _order(numbers: pl.Series) -> pl.Series:
    """Whole numbers; fractions are replaced by ranks, since truncation would make 1.2 and 1.7 equal."""
    if (numbers != numbers.floor()).any():
        return numbers.rank("dense").cast(pl.Int64)
    return numbers.cast(pl.Int64, strict=False)


def _seconds(numbers: pl.Series, *, advise: bool) -> tuple[pl.Series, list[str]]:
    for length, form in _DIGITS:
        dates = _as_dates(numbers, length, form)
        if dates is not None:
            return dates, [f"timestamps are dates written as {form}"]
    if _are_months_and_days(numbers):
        text = numbers.cast(pl.Int64, strict=False).cast(pl.String).str.zfill(4)
        return times(text, clock=True, form="%m%d", where="")
    median = numbers.median()
    size = median if isinstance(median, float) else 0.0
    limit = float("inf")
    for least, divisor, unit in (*_UNITS, (-float("inf"), 1.0, "seconds")):
        if size > least:
            fits = (numbers > least) & (numbers <= limit)
            odd = int((~fits).sum())
            notes = [] if unit == "seconds" else [f"timestamps are {unit}"]
            if unit == "seconds" and 0 < _largest(numbers) < _EARLY:
                how = "Say so by --set data.options.time_format=days (or hours ...)"
                notes.append(
                    "timestamps read as seconds all lie in 1970: do they count days, hours, minutes or "
                    f"milliseconds? {how if advise else 'Times are seconds here'}"
                )
            if odd:
                notes.append(f"{odd:,} timestamps are not {unit}, as the others are, by their size")
            return pl.select(pl.when(fits).then(numbers / divisor)).to_series(), notes
        limit = least
    raise AssertionError("every size has a unit")


def _as_dates(numbers: pl.Series, length: int, form: str) -> pl.Series | None:
    """Seconds, if the column's first numbers are all dates of 1970 to 2100 written as `form`; else None."""
    first = numbers.drop_nulls().head(_PROBE)
    whole = (first == first.floor()) & (first >= 1970 * 10.0 ** (length - 4))
    if not len(first) or not (whole & (first < 2101 * 10.0 ** (length - 4))).all():
        return None
    if _formatted(first.cast(pl.Int64).cast(pl.String), form).null_count():
        return None
    return _formatted(numbers.cast(pl.Int64, strict=False).cast(pl.String), form)


def _are_months_and_days(numbers: pl.Series) -> bool:
    """Whether all numbers are dates such as 511 or 1231, of several months; five different ones at least."""
    first = numbers.drop_nulls().head(_PROBE).unique()
    if len(first) < 5 or not (first.is_between(101, 1231) & (first == first.floor())).all():
        return False
    text = first.cast(pl.Int64).cast(pl.String).str.zfill(4)
    spread = first.to_numpy().max() - first.to_numpy().min()
    return bool(spread > 99) and not _formatted(_LEAP + text, "%Y%m%d").null_count()


def _largest(numbers: pl.Series) -> float:
    found = numbers.max()
    return float(found) if isinstance(found, int | float) else 0.0


def _formatted(column: pl.Series, form: str) -> pl.Series:
    try:
        found = column.str.to_datetime(form, time_unit="us", strict=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"data.options.time_format = {form!r}: {reason}; for instance '%d.%m.%Y %H:%M:%S'"
        ) from None
    return found.dt.epoch("us") / 1e6


def _dates(column: pl.Series) -> pl.Series:
    """ISO 8601 dates as seconds, in UTC if no zone is given; also `2024/05/01` and `... UTC`."""
    text = pl.lit(
        column.str.replace(r"^(\d{4})/(\d{1,2})/", "$1-$2-")
        .str.replace(r"^(\S+)\s+", "${1}T")
        .str.replace(r"\s*(UTC|GMT|[Zz])$", "+0000")
        .str.replace(r"\s+([+-]\d\d:?(?:\d\d)?)$", "$1")
    )
    parsed = [
        text.str.to_datetime(form, time_unit="us", strict=False)
        if form.endswith("z")
        else text.str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")
        for form in _FORMATS
    ]
    return pl.select(pl.coalesce(parsed).dt.epoch("us") / 1e6).to_series()
