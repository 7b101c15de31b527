"""The grammar of conditions."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm4sbr.errors import InputError
from llm4sbr.serving.conditions import LONGEST, MOST, OPERATORS, Condition, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("category = Lighting", [("category", "=", ("Lighting",), False)]),
        ("price<=30", [("price", "<=", ("30",), False)]),
        ("price > -2.5", [("price", ">", ("-2.5",), False)]),
        (" unit price != 3 ", [("unit price", "!=", ("3",), False)]),
        ("title = Lamp, red", [("title", "=", ("Lamp, red",), False)]),
        ("category in Lamp,Bed Room", [("category", "in", ("Lamp", "Bed Room"), False)]),
        ('category not in (Lamp, "Bed, Bath")', [("category", "in", ("Lamp", "Bed, Bath"), True)]),
        ("genres contains sci-fi", [("genres", "contains", ("sci-fi",), False)]),
        ("not genres contains in", [("genres", "contains", ("in",), True)]),
        ("not category not in Lamp", [("category", "in", ("Lamp",), False)]),
        ("x = in b", [("x", "=", ("in b",), False)]),
        ("x in b = c", [("x", "in", ("b = c",), False)]),
        ('"a; b" = "c \\" \\\\"', [("a; b", "=", ('c " \\',), False)]),
        ('category = ""', [("category", "=", ("",), False)]),
        ("in_stock", [("in_stock", "", (), False)]),
        ("not in_stock", [("in_stock", "", (), True)]),
        ("note = 1", [("note", "=", ("1",), False)]),
        (
            "a = 1; not b;; c < 2;",
            [("a", "=", ("1",), False), ("b", "", (), True), ("c", "<", ("2",), False)],
        ),
        ("", []),
    ],
)
def test_what_is_understood(text, expected):
    assert parse(text) == tuple(Condition(*one) for one in expected)
    assert parse([text]) == parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("price == 3", "expected a value"),
        ("price <", "expected a value"),
        ("= 3", "a name is missing"),
        ('price = "3', "a quotation mark is not closed"),
        ('price = 3 "a"', "expected a value"),
        ("category in a,,b", "expected a value"),
        ('category in "a" b', "expected values separated by commas"),
        ("x" * LONGEST + " = 3", f"longer than {LONGEST} characters"),
        (["x = 3"] * (MOST + 1), f"{MOST + 1} conditions, at most {MOST}"),
        (3, "expected a condition"),
        ([3], "expected a condition"),
        ("__import__('os').system('true') = 1; (", "no error"),
    ],
)
def test_what_is_not(text, message):
    if message == "no error":  # it is a name and a value like all others, never code
        assert parse(text)[0].name == "__import__('os').system('true')"
        return
    with pytest.raises(InputError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(words, st.sampled_from(OPERATORS), st.lists(words, min_size=1, max_size=3), st.booleans())
def test_anything_can_be_said_in_quotation_marks(name, operator, values, negated):
    values = values if operator == "in" else values[:1]
    text = f"{'not ' * negated}{quoted(name)} {operator} {', '.join(map(quoted, values))}"
    assert parse(f"{text}; {text}") == (Condition(name, operator, tuple(values), negated),) * 2


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused(text):
    with suppress(InputError):
        assert all(one.name for one in parse(text))
