"""Further perspectives: category, price, novelty, and an explanation before the answer.

Their texts are in this module; they accept `wording` only because every perspective has to. Attributes that
an item does not have are left out, so that each perspective works on any data; if none of the session's items
has the attribute, the question does not mention it.
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
"""Attributes with an item's category; the first that an item has is used."""

PRICES = ("price", "price_usd", "cost")

ONLY = "Reply with only its title."

SENTENCE = re.compile(r"(?:the|this|a) user\b", re.IGNORECASE)
"""How small models start when they describe the user or repeat the question instead of answering."""


class Asks:
    """Base: lists the session's items, one per line, and then asks.

    Args:
        wording: accepted but ignored.
        max_items: maximum number of most recent items in a prompt.
        attributes: item attributes shown after the title.
    """

    plugin_api = 1
    horizon: ClassVar[Horizon] = "long"

    def __init__(
        self, *, wording: str = "natural", max_items: int = 10, attributes: Sequence[str] = ()
    ) -> None:
        self._shown = max_items
        self._attributes = tuple(attributes)

    def prompt(self, items: Sequence[Item]) -> str:
        """The prompt for a session, oldest item first."""
        shown = items[-self._shown :]
        lines = [f"- {self._line(item)}" for item in shown]
        return "\n".join(["A user looked at these items, the latest one last:", *lines, self.question(shown)])

    def parse(self, answer: str) -> str:
        """The item that an answer names; "" for a sentence about the user."""
        title = parse_answer(answer)
        return "" if SENTENCE.match(title) else title

    def question(self, items: Sequence[Item]) -> str:
        """The question about the items shown."""
        return f"Name one other item that this user would choose next. {ONLY}"

    def _line(self, item: Item) -> str:
        named = [item.attributes[name] for name in self._attributes if item.attributes.get(name)]
        extra = [*named, *(text for text in self.noted(item) if text not in named)]
        title = one_line(item.title) or f"item {item.id}"
        return f"{title} ({one_line(', '.join(extra))})" if extra else title

    def noted(self, item: Item) -> list[str]:
        """Attributes that the question is about, shown on every line."""
        return []


class Category(Asks):
    """The whole session by category: another item of the category that the user looks at most."""

    def noted(self, item: Item) -> list[str]:
        """The item's category."""
        kind = _first(item, CATEGORIES)
        return [kind] if kind else []

    def question(self, items: Sequence[Item]) -> str:
        """Names the most frequent category; of equally frequent ones the most recent."""
        kinds = Counter(kind for item in reversed(items) if (kind := _first(item, CATEGORIES)))
        if not kinds:
            return super().question(items)
        kind = one_line(kinds.most_common(1)[0][0])
        return f"Name one other item of the kind {kind} that this user would choose next. {ONLY}"


class NextCategory(Category):
    """The category of the next item.

    Its answers are categories, not titles: set `--set localize.item_text=full`, so that items are compared by
    title and attributes and answers can be tied to items of the category.
    """

    horizon: ClassVar[Horizon] = "short"

    def question(self, items: Sequence[Item]) -> str:
        """Asks for a category, not for an item."""
        return (
            "Which kind of item will this user look at next? Reply with only the name of a category, such as "
            f"{_examples(items)}."
        )

    def parse(self, answer: str) -> str:
        """The category alone: `Drama` from "This user will look at items in the category of Drama."."""
        kind = super().parse(answer)
        behind = re.search(r"\bcategor(?:y|ies)(?: of| is| are)?:? (.+)", kind, re.IGNORECASE)
        return parse_answer(behind[1]) if behind else re.sub(r" category$", "", kind)


class Price(Asks):
    """Another item at about the price that the user looks at now."""

    horizon: ClassVar[Horizon] = "short"

    def noted(self, item: Item) -> list[str]:
        """The item's price."""
        price = _first(item, PRICES)
        return [f"price {price}"] if price else []

    def question(self, items: Sequence[Item]) -> str:
        """Names the price range of the last three items."""
        prices = [value for item in items[-3:] if (value := _number(_first(item, PRICES))) is not None]
        if not prices:
            return super().question(items)
        return (
            f"The latest ones cost {min(prices):g} to {max(prices):g}. Name one other item at about this "
            f"price that this user would choose. {ONLY}"
        )


class Novelty(Asks):
    """An item that this user would like although it is unlike everything in the session."""

    def question(self, items: Sequence[Item]) -> str:
        """Asks for something different."""
        return f"Name one item that this user would like although it is quite unlike all of these. {ONLY}"


class Explain(Asks):
    """Explanation first, then the answer: in one sentence what the user wants, then an item.

    The answer is the text after the last `Answer:`. The explanation needs tokens: raise
    `infer.options.max_new_tokens` to about 80.
    """

    def question(self, items: Sequence[Item]) -> str:
        """Asks for both on one line, because an answer ends with its first line."""
        return (
            "In one short sentence, what is this user looking for? Then name one other item. Write all on "
            "one line in the form: Reason: ... Answer: TITLE"
        )

    def parse(self, answer: str) -> str:
        """The item after the last `Answer:`; "" for an explanation without an answer."""
        _, found, title = answer.rpartition("Answer:")
        if not found and re.match(rf"\s*(?:Reason:|{SENTENCE.pattern})", answer, re.IGNORECASE):
            return ""
        title = super().parse(title)
        return "" if title == "TITLE" else title


def _first(item: Item, names: Sequence[str]) -> str:
    return next((value for name in names if (value := item.attributes.get(name, ""))), "")


def _number(text: str) -> float | None:
    """The first number in a text: 7.5 from "$7,50", 1299 from "1,299", 1299.5 from "EUR 1.299,50"."""
    found = re.search(r"\d+(?:[.,]\d+)*", text)
    if not found:
        return None
    *groups, last = re.split("[.,]", found.group())
    grouped = len(last) == 3 and groups != ["0"] and len(set(re.findall("[.,]", found.group()))) == 1
    return float("".join([*groups, last]) if grouped or not groups else f"{''.join(groups)}.{last}")


def _examples(items: Sequence[Item]) -> str:
    kinds = list(dict.fromkeys(kind for item in items if (kind := _first(item, CATEGORIES))))
    return " or ".join(one_line(kind) for kind in kinds[-2:]) or "those of the items above"
