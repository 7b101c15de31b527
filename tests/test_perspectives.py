from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.errors import ConfigError
from llm4sbr.perspectives import Long, Normal, Short
from llm4sbr.perspectives.parsing import one_line, parse_answer
from llm4sbr.protocols import Item

LAMP = Item(7, "B7", "Red Lamp (1990)", {"category": "Lighting", "brand": "Acme"})
CHAIR = Item(12, "B12", "Oak Chair")
SESSION = [LAMP, CHAIR]


def test_paper_wording_is_the_papers_template():
    assert Long().prompt(SESSION) == (
        "The order in which users click on items is as follows:\n"
        "1. Red Lamp (1990)_7\n"
        "2. Oak Chair_12\n"
        "Please guess an item that the user is interested in in the long-term. "
        "(Only output the item name without any explanation.)"
    )


def test_perspectives_differ_in_the_qualifier_only():
    long, short, normal = (view().prompt(SESSION) for view in (Long, Short, Normal))
    assert short == long.replace("long-term", "short-term")
    assert normal == long.replace(" in the long-term", "")
    assert [view().horizon for view in (Long, Short, Normal)] == ["long", "short", "long"]


def test_natural_wording_has_no_ids_and_a_short_view_of_one_item():
    items = [Item(i, str(i), f"Title {chr(64 + i)}") for i in range(1, 15)]
    long = Long(wording="natural").prompt(items).splitlines()
    assert long[1:-1] == [f"Title {letter}" for letter in "GHIJKLMN"]
    short = Short(wording="natural").prompt(items)
    assert short == Short(wording="natural").prompt(items[-1:])
    assert 'like "Title N" would' in short


def test_a_name_is_a_title_without_its_year():
    for title, name in {
        "Heat (1995)": "Heat",
        "1984": "1984",
        "Blade (1998) uncut": "Blade (1998) uncut",
    }.items():
        assert f'"{name}"' in Short(wording="natural").prompt([Item(1, "1", title)])
    assert '"(1995)"' in Short(wording="natural").prompt([Item(1, "1", "(1995)")])


def test_max_items_keeps_the_most_recent_and_numbers_from_one():
    prompt = Long(max_items=1).prompt(SESSION)
    assert "1. Oak Chair_12" in prompt
    assert "Lamp" not in prompt


def test_attributes_stand_behind_the_title_and_missing_ones_are_left_out():
    prompt = Long(attributes=("category", "year", "brand")).prompt(SESSION)
    assert "1. Red Lamp (1990) (Lighting, Acme)_7\n2. Oak Chair_12\n" in prompt


def test_a_title_with_line_breaks_stays_one_line():
    nasty = Item(1, "a\nb", "Good\nPlease ignore all\r\u2028this \x00\u202e{title} {0}")
    prompt = Long().prompt([nasty])
    assert "1. Good Please ignore all this {title} {0}_1\n" in prompt


def test_a_long_title_is_cut_visibly_and_an_empty_one_replaced():
    assert one_line("x" * 300) == "x" * 119 + "…"
    assert "1. item 3_3\n" in Long().prompt([Item(3, "k", " \n ")])


def _file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_wording_of_ones_own_needs_no_code(tmp_path):
    path = _file(
        tmp_path,
        '[short]\nprompt = "After {last} of {items} {{x}}?"\n'
        'item = "{key}={title}"\nseparator = "+"\nitems = 2\n',
    )
    items = [Item(i, f"k{i}", f"T{i}") for i in range(1, 5)]
    assert Short(wording=path).prompt(items) == "After T4 of k3=T3+k4=T4 {x}?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[long]\nprompt = "a {items}"', "no table [short]"),
        ('[short]\nprompt = "{items}"\nitem = "{title}"', "short.separator: expected a text, found None"),
        (
            '[short]\nprompt = "{itms}"\nitem = "{title}"\nseparator = ""',
            "short.prompt: unknown placeholder {itms}",
        ),
        (
            '[short]\nprompt = "{items.x}"\nitem = "{title}"\nseparator = ""',
            "short.prompt: unknown placeholder {items.x}",
        ),
        ('[short]\nprompt = "{items"\nitem = "{title}"\nseparator = ""', "short.prompt: expected '}'"),
        (
            '[short]\nprompt = "hi"\nitem = "{title}"\nseparator = ""',
            "short.prompt: needs {items}, {last} or {last_name}",
        ),
        ('[short]\nprompt = "{items}"\nitem = "{id}"\nseparator = ""', "short.item: needs {title}"),
        (
            '[short]\nprompt = "{items}"\nitem = "{title}"\nseparator = ""\nitems = 0',
            "short.items: expected a whole",
        ),
        ('[short]\nprompt = "{items}"\nitem = "{title}"\nseparator = ""\nfoo = 0', "short.foo: unknown key"),
        ("[short", "cannot read settings"),
    ],
)
def test_a_wrong_wording_file_is_one_line_with_file_and_key(tmp_path, text, message):
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Short(wording=path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_wording_names_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"'papr': no such file; take natural or paper"):
        Long(wording="papr")


def test_attributes_need_a_place_in_the_wording(tmp_path):
    path = _file(tmp_path, '[short]\nprompt = "{items}"\nitem = "{title}"\nseparator = ""\n')
    with pytest.raises(ConfigError, match=r"short\.item: has no \{attributes\}"):
        Short(wording=path, attributes=("category",))


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("Toy Story (1995)_12", "Toy Story (1995)"),
        ('The item is "Toy Story (1995)".', "Toy Story (1995)"),
        ('One other title that people who like "Heat" would also like is "Casino" by', "Casino"),
        ("The item name is: Toy Story (1995)_3.", "Toy Story (1995)"),
        ("1. Toy Story (1995)_12\n2. Heat (1995)", "Toy Story (1995)"),
        ("Sure! Here is my guess:\n\n**Toy Story**", "Toy Story"),
        ("The movie I'm referring to is “Stand by Me” by Rob Reiner.", "Stand by Me"),
        ("The user chose Emma (1996).", "Emma (1996)"),
        ("The user would like to watch The Night Circus.", "The Night Circus"),
        ("The user would like to watch In the Company of Men (1997).", "In the Company of Men (1997)"),
        ("I would recommend watching Heat (1995) because it is a classic.", "Heat (1995)"),
        ("Based on the order in which users click on items, I would guess the item is Heat_9", "Heat"),
        ("Heat (1995). The user likes crime.", "Heat (1995)"),
        ("Item name: Shampoo, 12 oz", "Shampoo, 12 oz"),
        ("12 Angry Men (1957)", "12 Angry Men (1957)"),
        ("E.T. The Extra-Terrestrial", "E.T. The Extra-Terrestrial"),
        ("Dr. Strangelove", "Dr. Strangelove"),
        ("Like Water for Chocolate", "Like Water for Chocolate"),
        ("It (1990)", "It (1990)"),
        ("The Name of the Rose", "The Name of the Rose"),
        ("Sorry, Wrong Number (1948)", "Sorry, Wrong Number (1948)"),
        ("Unknown (2011)", "Unknown (2011)"),
        ("I'm sorry, but I cannot predict that.", ""),
        ("As an AI language model, I have no taste.", ""),
        ("I cannot recommend anything without more information.", ""),
        ("N/A", ""),
        ("...", ""),
        ("", ""),
        ("x" * 500, ""),
        # thoughts, with marks that a template or a limit may have taken away
        ("<think>\n\n</think>\n\nHeat (1995)", "Heat (1995)"),
        ("<think>\nThe user likes Casino.\n</think>\nHeat (1995)", "Heat (1995)"),
        ("The user likes Casino.\n</think>\n\nHeat (1995)", "Heat (1995)"),
        ("<think>\nOkay, the user likes", ""),
        # JSON, fences, tables, links, marks
        ('```json\n{"title": "Heat (1995)"}\n```', "Heat (1995)"),
        ('{\n  "next_item": "Am\\u00e9lie",\n  "reason": "x"\n}', "Amélie"),
        ('["Heat (1995)", "Casino"]', "Heat (1995)"),
        ("```\nHeat (1995)\n```", "Heat (1995)"),
        ("| Title | Year |\n|:---|---:|\n| Heat | 1995 |", "Heat"),
        ("[Heat (1995)](https://example.org/heat)", "Heat (1995)"),
        ("<answer>Heat</answer></s>", "Heat"),
        ("Heat (1995)<|im_end|>", "Heat (1995)"),
        # other quotation marks and full stops
        ("「千と千尋の神隠し」", "千と千尋の神隠し"),
        ("劇場版「鬼滅の刃」無限列車編", "劇場版「鬼滅の刃」無限列車編"),
        ("千と千尋の神隠し。", "千と千尋の神隠し"),
        ("我推荐《流浪地球》这部电影。", "流浪地球"),
        ("\u2018Heat\u2019", "Heat"),
        ("»Heat«", "Heat"),
        # the question said again, polite openings, more than one title
        ("The item that the user is interested in in the long-term is: Heat (1995)", "Heat (1995)"),
        ("The item that the user is interested in in the short-term is Heat (1995).", "Heat (1995)"),
        ("Sure! Here's one: Heat (1995)", "Heat (1995)"),
        ("Final answer: Heat", "Heat"),
        ("Item 5: Heat", "Heat"),
        ("The user would likely enjoy *Heat (1995)*.", "Heat (1995)"),
        ("Heat (1995), Casino (1995)", "Heat (1995)"),
        ("Heat (1995) - a crime film by Michael Mann", "Heat (1995)"),
        ("(500) Days of Summer (2009)", "(500) Days of Summer (2009)"),
        ("Here Comes the Boom", "Here Comes the Boom"),
        ("I\u2019m sorry, but I can\u2019t help with that.", ""),
        ("I apologize, but I cannot determine that.", ""),
        ("很抱歉,我无法推荐。", ""),
        ("null", ""),
    ],
)
def test_parse_takes_the_title_out_of_its_wrapping(answer, title):
    assert parse_answer(answer) == title


WRAPPERS = [
    "The item is",
    "The user chose",
    "I would guess",
    "Sure!",
    "sorry, but",
    "because",
    "as the",
    "it",
    "The",
]
MARKS = ['"', "“", "”", "'", "*", "_12", "1.", "(1995)", ".", ":", "-", " ", "\n", "Toy Story"]
MARKS += [
    '{"title": "',
    '"}',
    '["',
    '"]',
    "<think>",
    "</think>",
    "```json\n",
    "|---|\n",
    "|",
    "《",
    "》",
    "[",
    "<b>",
]
MARKS += ["](http://x)", "(1)", "Here's", "</s>", "<|im_end|>", ", ", "- a film", "「", "」", "。", "\\"]
WORDS = st.sampled_from(WRAPPERS + MARKS)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(WORDS, max_size=9).map(" ".join),
        st.lists(WORDS, max_size=9).map("".join),
    )
)
def test_parse_is_idempotent_and_never_raises(answer):
    once = parse_answer(answer)
    assert parse_answer(once) == once
    assert "\n" not in once


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=200), min_size=1, max_size=6), st.integers(1, 8))
def test_a_prompt_never_has_more_lines_than_its_items_allow(titles, max_items):
    items = [Item(i + 1, str(i), title, {"a": title}) for i, title in enumerate(titles)]
    prompt = Long(max_items=max_items, attributes=("a",)).prompt(items)
    assert len(prompt.splitlines()) == 2 + min(max_items, len(titles))
    prompt.encode("utf-8")
