"""The contract of perspectives; subclass `PerspectiveContract` in a plugin's tests.

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
    """What the perspective asks about: `session` or `item`."""
    found: str = getattr(perspective, "unit", "session")
    return found


class PerspectiveContract(Contract, kind="perspectives"):
    """Tests of one perspective."""

    create: Callable[..., Perspective]
    """Creates the perspective; takes the keywords `wording`, `max_items` and `attributes`."""

    def fitted(self) -> Perspective:
        """A perspective; if it has `fit`, fitted on the sessions 1, 2, 3 ... 12 and 12, 11, 10 ... 1."""
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
        """It has the members of the protocol and a known horizon."""
        perspective = self.create()
        assert isinstance(perspective, Perspective), "needs horizon, prompt and parse"
        assert perspective.horizon in ("long", "short"), "horizon must be long or short"

    def test_a_prompt_names_the_last_item(self) -> None:
        """A prompt contains the title of the last item, and is the same each time, in all our wordings."""
        for wording in ("paper", "natural"):
            perspective = self.create(wording=wording)
            for length in (1, 2, len(ITEMS)):
                prompt = perspective.prompt(ITEMS[:length])
                assert ITEMS[length - 1].title in prompt, f"wording {wording!r}, {length} items: {prompt}"
                again = perspective.prompt(ITEMS[:length])
                assert prompt == again, f"wording {wording!r}, {length} items: two prompts for one session"

    def test_a_prompt_does_not_know_what_comes_next(self) -> None:
        """A prompt names items of the session and its `candidates` only, since the LLM guesses the next."""
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
        """`prompt` does not modify the list of items."""
        items = ITEMS[:4]
        self.fitted().prompt(items)
        assert items == ITEMS[:4], "prompt changed the list of items"

    def test_max_items_bounds_what_is_shown(self) -> None:
        """A prompt names at most `max_items` items, the most recent ones."""
        perspective = self.create(max_items=2)
        prompt, most = perspective.prompt(ITEMS), 1 if unit(perspective) == "item" else 2
        assert [item.title for item in ITEMS if item.title in prompt] == [
            item.title for item in ITEMS[-most:]
        ]

    def test_what_asks_about_items_sees_the_last_one_only(self) -> None:
        """With `unit = "item"`, prompts depend on the last item only; sessions that end with it share one."""
        for wording in ("paper", "natural"):
            perspective = self.create(wording=wording)
            assert unit(perspective) in ("session", "item"), "unit must be session or item"
            if unit(perspective) == "item":
                alone, after = (perspective.prompt(session) for session in (ITEMS[4:5], ITEMS[:5]))
                assert alone == after, f"wording {wording!r}: earlier items change the prompt: {after}"

    def test_line_breaks_in_titles_add_no_lines(self) -> None:
        """Line breaks in a title do not become line breaks of the prompt."""
        perspective = self.create()
        plain, broken = (perspective.prompt([Item(1, "k", title)]) for title in ("a b", "a\r\n\u2028b"))
        assert len(plain.splitlines()) == len(broken.splitlines()), f"a title breaks a line: {broken}"

    def test_parse_takes_anything_and_settles(self) -> None:
        """`parse` never raises, returns at most one line, and does not change what it has parsed."""
        perspective = self.create()
        for answer in ANSWERS:
            once = perspective.parse(answer)
            shown = repr(answer[:40])
            assert isinstance(once, str), f'{shown} is parsed to {once!r}; without an answer, return ""'
            assert len(once.splitlines()) <= 1, f"{shown} is parsed to several lines: {once!r}"
            assert perspective.parse(once) == once, f"{shown}: parsing the parsed text changes it"
        assert perspective.parse("Title A") == "Title A"
        assert perspective.parse("") == ""
