"""What every perspective must do; subclass `PerspectiveContract` in a plugin's tests.

class TestMine(PerspectiveContract):
create = MyPerspective
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm4sbr.protocols import Catalogue, Item, Perspective
from llm4sbr.testing.contract import Contract

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


def unit(perspective: Perspective) -> str:
    """What it asks about."""
    found: str = getattr(perspective, "unit", "session")
    return found


class PerspectiveContract(Contract, kind="perspectives"):
    """Tests of one perspective."""

    create: Callable[..., Perspective]
    """Makes the perspective; takes the keywords `wording`, `max_items` and `attributes`."""

    def fitted(self) -> Perspective:
        """One that has seen training sessions, if it wants to: items 1, 2, 3, 4 ... and 12, 11, 10 ..."""
        perspective = self.create()
        if hasattr(perspective, "fit"):
            import torch

            from llm4sbr.protocols import Sessions

            ids = [item.id for item in ITEMS]
            sessions = Sessions(torch.tensor(ids + ids[::-1]), torch.tensor([0, len(ids), 2 * len(ids)]))
            titles = [item.title for item in ITEMS]
            perspective.fit(sessions, Catalogue([item.key for item in ITEMS], titles))
        return perspective

    def test_satisfies_the_protocol(self) -> None:
        """It has the members and a known horizon."""
        perspective = self.create()
        assert isinstance(perspective, Perspective), "needs horizon, prompt and parse"
        assert perspective.horizon in ("long", "short"), "horizon must be long or short"

    def test_a_prompt_names_the_last_item(self) -> None:
        """In every shipped wording, for a session of any length, the same twice."""
        for wording in ("paper", "natural"):
            perspective = self.create(wording=wording)
            for length in (1, 2, len(ITEMS)):
                prompt = perspective.prompt(ITEMS[:length])
                assert ITEMS[length - 1].title in prompt, f"wording {wording!r}, {length} items: {prompt}"
                again = perspective.prompt(ITEMS[:length])
                assert prompt == again, f"wording {wording!r}, {length} items: two prompts for one session"

    def test_a_prompt_does_not_know_what_comes_next(self) -> None:
        """No item beyond the session is named, but its `candidates`: the next one is to be guessed."""
        perspective = self.fitted()
        candidates: Callable[[Sequence[Item]], list[Item]]
        candidates = getattr(perspective, "candidates", lambda items: [])
        for length in (1, 2, 5):
            session = ITEMS[:length]
            prompt = perspective.prompt(session)
            allowed = {item.title for item in (*session, *candidates(session))}
            beyond = [item.title for item in ITEMS if item.title in prompt and item.title not in allowed]
            assert beyond == [], f"after {length} items the prompt names what was not clicked: {prompt}"

    def test_items_stay_as_they_are(self) -> None:
        """The list of items is the caller's."""
        items = ITEMS[:4]
        self.fitted().prompt(items)
        assert items == ITEMS[:4], "prompt changed the list of items"

    def test_max_items_bounds_what_is_shown(self) -> None:
        """Of a long session only the most recent items are named."""
        perspective = self.create(max_items=2)
        prompt, most = perspective.prompt(ITEMS), 1 if unit(perspective) == "item" else 2
        assert [item.title for item in ITEMS if item.title in prompt] == [
            item.title for item in ITEMS[-most:]
        ]

    def test_what_asks_about_items_sees_the_last_one_only(self) -> None:
        """Its answers serve all sessions that end with the item, so nothing else may change the prompt."""
        for wording in ("paper", "natural"):
            perspective = self.create(wording=wording)
            assert unit(perspective) in ("session", "item"), "unit must be session or item"
            if unit(perspective) == "item":
                alone, after = (perspective.prompt(session) for session in (ITEMS[4:5], ITEMS[:5]))
                assert alone == after, f"wording {wording!r}: earlier items change the prompt: {after}"

    def test_line_breaks_in_titles_add_no_lines(self) -> None:
        """A title cannot make a paragraph of its own."""
        perspective = self.create()
        plain, broken = (perspective.prompt([Item(1, "k", title)]) for title in ("a b", "a\r\n\u2028b"))
        assert len(plain.splitlines()) == len(broken.splitlines()), f"a title breaks a line: {broken}"

    def test_parse_takes_anything_and_settles(self) -> None:
        """Never an error, one line at most, and parsing what was parsed changes nothing."""
        perspective = self.create()
        for answer in ANSWERS:
            once = perspective.parse(answer)
            shown = repr(answer[:40])
            assert isinstance(once, str), f'{shown} is parsed to {once!r}; what is no answer is ""'
            assert len(once.splitlines()) <= 1, f"{shown} is parsed to several lines: {once!r}"
            assert perspective.parse(once) == once, f"{shown}: what was parsed is parsed to something else"
        assert perspective.parse("Title A") == "Title A"
        assert perspective.parse("") == ""
