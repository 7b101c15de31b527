from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.errors import InputError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.titles import TitleIndex, UnknownItem, parse_session, resolve_session

MOVIES = [
    "Toy Story (1995)",
    "Jumanji (1995)",
    "Good, The Bad and The Ugly, The (1966)",
    "Hamlet (1948)",
    "Hamlet (1990)",
    "Heat (1995)",
    "Toy Story 2 (1999)",
    "Empire Strikes Back, The (1980)",
    "Star Wars: Episode IV - A New Hope (1977)",
    "Cry, the Beloved Country (1995)",
    "Heat (1995)",
    '"Great Performances" Cats (1998)',
    "I, Robot",
]
CATALOGUE = Catalogue([f"m{i}" for i in range(1, len(MOVIES) + 1)], MOVIES)


def test_a_number_is_a_catalogue_id_and_a_key_of_digits_is_a_text():
    titles = TitleIndex(Catalogue(["101", "102"], ["A", "B"]))
    assert titles.resolve("102").id == titles.resolve(2).id == 2
    with pytest.raises(InputError, match=r"ids are 1 to 2; as a key it is written as a text, '101'$"):
        titles.resolve(101)
    with pytest.raises(InputError, match=r"ids are 1 to 2$"):
        titles.resolve(3)


@pytest.mark.parametrize(
    ("text", "id", "how"),
    [
        (2, 2, "id"),
        ("m7", 7, "key"),
        ("Toy Story (1995)", 1, "title"),
        ("  toy story (1995) ", 1, "letter case"),
        ("Toy Story", 1, "year or article"),
        ("toy story 2", 7, "year or article"),
        ("the empire strikes back", 8, "year or article"),
        ("Empire Strikes Back", 8, "year or article"),
        ("The Good, the Bad and the Ugly (1966)", 3, "year or article"),
        ("Jumangi (1995)", 2, "spelling"),
        ("The Empire Strikes Bakc", 8, "spelling"),
        ("Heat (1995)", 6, "title"),  # two items have this title: the first
        ("heat", 6, "year or article"),
    ],
)
def test_how_a_text_is_recognised(text: str | int, id: int, how: str) -> None:
    found = TitleIndex(CATALOGUE).resolve(text)
    assert (found.id, found.how) == (id, how)
    assert found.title == MOVIES[id - 1]
    assert found.key == f"m{id}"


@pytest.mark.parametrize(
    "text", ["Casablanca", "Toy Story (1950)", "Jumanji (1996)", "???", "star wars", "Toy Story 3"]
)
def test_unknown_titles_name_three_near_ones(text: str) -> None:
    with pytest.raises(InputError) as caught:
        TitleIndex(CATALOGUE).resolve(text)
    message = str(caught.value)
    assert message.startswith(f"no item is called {text!r}; the nearest titles are ")
    assert sum(repr(title) in message for title in set(MOVIES)) == 3
    assert "\n" not in message


def test_a_title_that_contains_the_text_is_near() -> None:
    with pytest.raises(InputError, match=r"are 'Star Wars: Episode IV"):
        TitleIndex(CATALOGUE).resolve("star wars")


def test_a_title_without_year_that_two_items_have() -> None:
    with pytest.raises(InputError, match=r"'hamlet' could be 'Hamlet \(1948\)' or 'Hamlet \(1990\)'; give"):
        TitleIndex(CATALOGUE).resolve("hamlet")
    assert TitleIndex(CATALOGUE).resolve("hamlet (1990)").id == 5


@pytest.mark.parametrize("id", [0, -1, 14])
def test_ids_that_do_not_exist(id: int) -> None:
    with pytest.raises(InputError, match="ids are 1 to 13"):
        TitleIndex(CATALOGUE).resolve(id)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Toy Story (1995)", ["Toy Story (1995)"]),
        ("Toy Story (1995), Jumanji (1995)", ["Toy Story (1995)", "Jumanji (1995)"]),
        (
            "Heat, Good, The Bad and The Ugly, The (1966), Jumanji",
            ["Heat", "Good, The Bad and The Ugly, The (1966)", "Jumanji"],
        ),
        (
            "the good, the bad and the ugly,Cry, the Beloved Country",
            ["the good, the bad and the ugly", "Cry, the Beloved Country"],
        ),
        ("I, Robot, I, Robot", ["I, Robot", "I, Robot"]),
        ("Toy Story (1995) | Jumanji (1995)", ["Toy Story (1995)", "Jumanji (1995)"]),
        ("Toy Story (1995)\nI, Robot\n", ["Toy Story (1995)", "I, Robot"]),
        ('"Toy Story (1995)", "I, Robot"', ["Toy Story (1995)", "I, Robot"]),
        ('heat, "Unknown, The", heat', ["heat", "Unknown, The", "heat"]),
        ('"Great Performances" Cats (1998), heat', ['"Great Performances" Cats (1998)', "heat"]),
        ("m3, m4,m5", ["m3", "m4", "m5"]),
        ("Jumangi (1995), Nobody Knows", ["Jumangi (1995)", "Nobody Knows"]),
        (
            "Goood, The Bad and The Ugly, The (1966), heat",
            ["Goood, The Bad and The Ugly, The (1966)", "heat"],
        ),
        (", heat,, jumanji ,", ["heat", "jumanji"]),
    ],
)
def test_parse_session(text: str, expected: list[str]) -> None:
    assert parse_session(text, TitleIndex(CATALOGUE)) == expected


@pytest.mark.parametrize("text", ["", "  ", ",", " | \n", '""'])
def test_an_empty_session(text: str) -> None:
    with pytest.raises(InputError, match="the session is empty"):
        parse_session(text, TitleIndex(CATALOGUE))


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.sampled_from([*range(10), 11, 12]), min_size=1, max_size=5))
def test_titles_joined_by_commas_come_apart_again(ids: list[int]) -> None:
    titles = [MOVIES[i] for i in ids]
    assert parse_session(", ".join(titles), TitleIndex(CATALOGUE)) == titles
    assert [TitleIndex(CATALOGUE).resolve(title).title for title in titles] == titles


BARRED = ["Clock | Wall", "Clock | Wall | Oak, large", "Red Lamp", 'Screen 12" | Desk']
BARS = Catalogue([f"b{n}" for n in range(4)], BARRED)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Clock | Wall", [1]),
        ('"Clock | Wall"', [1]),
        ("Clock | Wall | Oak, large", [2]),
        ("Red Lamp | Clock | Wall | Red Lamp", [3, 1, 3]),
        ('red lamp, "Clock | Wall" | b2', [3, 1, 3]),
        ('Screen 12" | Desk | Red Lamp', [4, 3]),
        ("b0|b1|b2", [1, 2, 3]),
    ],
)
def test_titles_with_bars(text: str, ids: list[int]) -> None:
    assert [one.id for one in resolve_session(text, TitleIndex(BARS)).items] == ids


def test_many_bars_take_time_in_proportion() -> None:
    text = "b0|" * 100_000 + '"'
    started = time.perf_counter()
    assert len(parse_session(text, TitleIndex(BARS))) >= 100_000
    assert time.perf_counter() - started < 20  # seconds; quadratic work took 90


def test_unknown_items_are_left_out() -> None:
    titles = TitleIndex(BARS)
    found = resolve_session(["b2", "NEW-77", "b0"], titles)
    assert ([one.id for one in found.items], found.left_out) == ([3, 1], ["NEW-77"])
    with pytest.raises(UnknownItem, match="no item is called 'NEW-77'"):
        resolve_session(["b2", "NEW-77"], titles, unknown="fail")
    nothing = resolve_session(["NEW-77", "NEW-78"], titles)
    assert (nothing.items, nothing.left_out) == ([], ["NEW-77", "NEW-78"])
    assert "no item is called 'NEW-77'" in str(nothing.unknown)
    with pytest.raises(InputError, match="ids are 1 to 4"):  # a catalogue id is never newer than the model
        resolve_session(["b2", 9], titles)
