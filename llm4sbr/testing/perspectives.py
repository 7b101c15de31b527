"""What every perspective must do; subclass `PerspectiveContract` in a plugin's tests.

class TestMine(PerspectiveContract):
create = MyPerspective
"""

from __future__ import annotations

from collections.abc import Callable

from llm4sbr.protocols import Item, Perspective

ITEMS = [Item(i, f"k{i}", f"Title {chr(64 + i)}", {"category": "Chairs"}) for i in range(1, 13)]
ANSWERS = [
    "Title A",
    'The item is "Title A".',
    "",
    "\n\n",
    "I'm sorry, but I cannot tell.",
    "…",
    "x" * 5000,
    "\x00",
]


class PerspectiveContract:
    """Tests of one perspective."""

    create: Callable[..., Perspective]
    """Makes the perspective; takes the keywords `wording`, `max_items` and `attributes`."""

    def test_satisfies_the_protocol(self) -> None:
        """It has the members and a known horizon."""
        perspective = self.create()
        assert isinstance(perspective, Perspective)
        assert perspective.horizon in ("long", "short")

    def test_a_prompt_names_the_last_item(self) -> None:
        """In every shipped wording, for a session of any length, the same twice."""
        for wording in ("paper", "natural"):
            perspective = self.create(wording=wording)
            for length in (1, 2, len(ITEMS)):
                prompt = perspective.prompt(ITEMS[:length])
                assert ITEMS[length - 1].title in prompt
                assert prompt == perspective.prompt(ITEMS[:length])

    def test_max_items_bounds_what_is_shown(self) -> None:
        """Of a long session only the most recent items are named."""
        prompt = self.create(max_items=2).prompt(ITEMS)
        assert [item.title for item in ITEMS if item.title in prompt] == [item.title for item in ITEMS[-2:]]

    def test_line_breaks_in_titles_add_no_lines(self) -> None:
        """A title cannot make a paragraph of its own."""
        perspective = self.create()
        plain, broken = (perspective.prompt([Item(1, "k", title)]) for title in ("a b", "a\r\n\u2028b"))
        assert len(plain.splitlines()) == len(broken.splitlines())

    def test_parse_takes_anything_and_settles(self) -> None:
        """Never an error, one line at most, and parsing what was parsed changes nothing."""
        perspective = self.create()
        assert perspective.parse("Title A") == "Title A"
        assert perspective.parse("") == ""
        for answer in ANSWERS:
            once = perspective.parse(answer)
            assert perspective.parse(once) == once
            assert len(once.splitlines()) <= 1
