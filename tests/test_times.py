"""Times in the forms that logs have, and those that must not be taken for others."""

from __future__ import annotations

import polars as pl
import pytest

from llm4sbr.data.readers.times import times
from llm4sbr.errors import DataError


def seconds(values: list[object], form: str | None = None) -> tuple[list[float | None], list[str]]:
    found, notes = times(pl.Series(values), clock=True, form=form, where="log.csv: ts")
    return found.to_list(), notes


@pytest.mark.parametrize(
    "text",
    [
        "2020-09-13 12:26:40 UTC",
        "2020-09-13T12:26:40Z",
        "2020/9/13 12:26:40",
        "2020-09-13 14:26:40 +0200",
        "2020-09-13T14:26:40+02",
        "2020-09-13  12:26:40.000",
    ],
)
def test_dates(text: str) -> None:
    assert seconds([text]) == ([1_600_000_000.0], [])


@pytest.mark.parametrize("digits", ["20200913", 20200913, "20200913000000"])
def test_a_date_written_as_one_number_is_no_second_of_1970(digits: object) -> None:
    found, notes = seconds([digits, digits])
    assert found == [1_599_955_200.0] * 2
    assert notes[0].startswith("timestamps are dates written as %Y%m%d")


@pytest.mark.parametrize("numbers", [[86_400_000, 86_400_060], [20_200_913, 20_201_399], [0, 5]])
def test_small_numbers_stay_seconds_with_a_word_about_1970(numbers: list[int]) -> None:
    found, notes = seconds(numbers)
    assert found == [float(one) for one in numbers]
    assert [note.partition(":")[0] for note in notes] == (
        ["timestamps read as seconds all lie in 1970"] if numbers[0] < 31_536_000 else []
    )


def test_a_time_of_another_unit_is_not_read_as_1970() -> None:
    found, notes = seconds([1_600_000_000_000, 1_600_000_001, 1_600_000_002_000, 0])
    assert found == [1_600_000_000.0, None, 1_600_000_002.0, None]
    assert notes[0] == "timestamps are milliseconds"
    assert notes[1] == "2 timestamps are not milliseconds, as the others are, by their size"


def test_a_form_of_ones_own() -> None:
    found, _ = seconds(["11/15/2019 9:05:58 AM", "11/15/2019 12:00:00 PM", "soon"], "%m/%d/%Y %I:%M:%S %p")
    assert found == [1_573_808_758.0, 1_573_819_200.0, None]
    assert seconds(["02.01.1970 01:00 +0100"], "%d.%m.%Y %H:%M %z")[0] == [86_400.0]


def test_categories_are_text_and_lists_are_refused() -> None:
    column = pl.Series(["1970-01-02"], dtype=pl.Categorical)
    assert times(column, clock=True, where="")[0].to_list() == [86_400.0]
    with pytest.raises(DataError, match=r"log.csv: ts: holds List\(Int64\)"):
        seconds([[1]])


def test_fractions_keep_their_order() -> None:
    found, _ = times(pl.Series([0.9, 0.1, 0.5]), clock=False, where="")
    assert found.to_list() == [3, 1, 2]
