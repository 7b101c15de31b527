"""Further perspectives: what kind of thing, at what price, something new, and with reasons.

They bring their own words and take `wording` only because every perspective does. Attributes that an item
does not have are left out, so that each works on any data; where none of the session's items has the
attribute, the question is the plain one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from llm4sbr.perspectives.parsing import one_line, parse_answer
from llm4sbr.protocols import Horizon, Item

__all__ = ["Category", "Explain", "NextCategory", "Novelty", "Price"]

CATEGORIES = ("category", "categories", "genres", "genre", "brand", "type")
"""Attributes that say what kind of thing an item is; the first that an item has counts."""

PRICES = ("price", "price_usd", "cost")

ONLY = "Reply with only its title."

SENTENCE = re.compile(r"(?:the|this|a) user\b", re.IGNORECASE)
"""How small models begin when they tell about the user, or repeat the question, instead of answering."""


class Asks:
    """A perspective that lists the session, a line per item, and then asks.

    Args:
        wording: is accepted and has no influence.
        max_items: a prompt names this many of a session's most recent items at most.
        attributes: item attributes named behind the title.
    """

    plugin_api = 1
    horizon: ClassVar[Horizon] = "long"

    def __init__(
        self, *, wording: str = "natural", max_items: int = 10, attributes: Sequence[str] = ()
    ) -> None:
        self._shown = max_items
        self._attributes = tuple(attributes)

    def prompt(self, items: Sequence[Item]) -> str:
        """The question about a session, oldest item first."""
        shown = items[-self._shown :]
        lines = [f"- {self._line(item)}" for item in shown]
        return "\n".join(["A user looked at these items, the latest one last:", *lines, self.question(shown)])

    def parse(self, answer: str) -> str:
        """The item that an answer names; a sentence about the user names none."""
        title = parse_answer(answer)
        return "" if SENTENCE.match(title) else title

    def question(self, items: Sequence[Item]) -> str:
        """What is asked about the items shown."""
        return f"Name one other item that this user would choose next. {ONLY}"

    def _line(self, item: Item) -> str:
        named = [item.attributes[name] for name in self._attributes if item.attributes.get(name)]
        extra = [*named, *(text for text in self.noted(item) if text not in named)]
        title = one_line(item.title) or f"item {item.id}"
        return f"{title} ({one_line(', '.join(extra))})" if extra else title

    def noted(self, item: Item) -> list[str]:
        """Attributes that belong to the question and so to every line."""
        return []


class Category(Asks):
    """The whole session by kind of thing: what else of the kind that the user looks at most?"""

    def noted(self, item: Item) -> list[str]:
        """The item's kind."""
        kind = _first(item, CATEGORIES)
        return [kind] if kind else []

    def question(self, items: Sequence[Item]) -> str:
        """Names the most frequent kind; of equally frequent ones the latest."""
        kinds = Counter(kind for item in reversed(items) if (kind := _first(item, CATEGORIES)))
        if not kinds:
            return super().question(items)
        kind = one_line(kinds.most_common(1)[0][0])
        return f"Name one other item of the kind {kind} that this user would choose next. {ONLY}"


class NextCategory(Category):
    """The kind of thing that comes next, in the words of the catalogue where possible.

    Its answers are kinds, not titles: let items be known by title and attributes,
    `--set localize.item_text=full`, so that they can be tied to items of the kind.
    """

    horizon: ClassVar[Horizon] = "short"

    def question(self, items: Sequence[Item]) -> str:
        """Asks for a kind, not for an item."""
        return (
            "Which kind of item will this user look at next? Reply with only the name of a category, such as "
            f"{_examples(items)}."
        )

    def parse(self, answer: str) -> str:
        """The kind alone: `Drama` of "This user will look at items in the category of Drama."."""
        kind = super().parse(answer)
        behind = re.search(r"\bcategor(?:y|ies)(?: of| is| are)?:? (.+)", kind, re.IGNORECASE)
        return parse_answer(behind[1]) if behind else re.sub(r" category$", "", kind)


class Price(Asks):
    """What else at about the price that the user looks at now?"""

    horizon: ClassVar[Horizon] = "short"

    def noted(self, item: Item) -> list[str]:
        """The item's price."""
        price = _first(item, PRICES)
        return [f"price {price}"] if price else []

    def question(self, items: Sequence[Item]) -> str:
        """Names the range of the latest three prices."""
        prices = [value for item in items[-3:] if (value := _number(_first(item, PRICES))) is not None]
        if not prices:
            return super().question(items)
        return (
            f"The latest ones cost {min(prices):g} to {max(prices):g}. Name one other item at about this "
            f"price that this user would choose. {ONLY}"
        )


class Novelty(Asks):
    """Something that this user would like and that is unlike everything so far."""

    def question(self, items: Sequence[Item]) -> str:
        """Asks for a change."""
        return f"Name one item that this user would like although it is quite unlike all of these. {ONLY}"


class Explain(Asks):
    """Reasons first, then the answer: what the user is after, in a sentence, and an item.

    The answer is what stands behind the last `Answer:`. Reasons need room: raise
    `infer.options.max_new_tokens` to about 80.
    """

    def question(self, items: Sequence[Item]) -> str:
        """Asks for both on one line, because an answer ends with its first line."""
        return (
            "In one short sentence, what is this user looking for? Then name one other item. Write all on "
            "one line in the form: Reason: ... Answer: TITLE"
        )

    def parse(self, answer: str) -> str:
        """The item behind the last `Answer:`; reasons without an answer are worth nothing."""
        _, found, title = answer.rpartition("Answer:")
        if not found and re.match(rf"\s*(?:Reason:|{SENTENCE.pattern})", answer, re.IGNORECASE):
            return ""
        title = super().parse(title)
        return "" if title == "TITLE" else title


def _first(item: Item, names: Sequence[str]) -> str:
    return next((value for name in names if (value := item.attributes.get(name, ""))), "")


def _number(text: str) -> float | None:
    """The first number: 7.5 of "$7,50", 1299 of "1,299", 1299.5 of "EUR 1.299,50"."""
    found = re.search(r"\d+(?:[.,]\d+)*", text)
    if not found:
        return None
    *groups, last = re.split("[.,]", found.group())
    grouped = len(last) == 3 and groups != ["0"] and len(set(re.findall("[.,]", found.group()))) == 1
    return float("".join([*groups, last]) if grouped or not groups else f"{''.join(groups)}.{last}")


def _examples(items: Sequence[Item]) -> str:
    kinds = list(dict.fromkeys(kind for item in items if (kind := _first(item, CATEGORIES))))
    return " or ".join(one_line(kind) for kind in kinds[-2:]) or "those of the items above"
