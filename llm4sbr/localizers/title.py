"""The localizer `title`: an answer that matches an item's title means that item; others go to `nearest`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

import torch

from llm4sbr.errors import ConfigError
from llm4sbr.localizers.nearest import Nearest, top
from llm4sbr.protocols import Catalogue, Encoder, Localization

TITLE = "title"
CLOSE = 10
"""Number of most similar items whose titles a misspelt answer is compared with."""

_ACCENTS = re.compile("(?<=[A-Za-z\u0370-\u03ff])[\u0300-\u036f]+")
"""Accents of Latin and Greek letters; in other scripts a mark can make a different letter."""

_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")


class Title:
    """Matches titles first, exactly and then approximately; answers without a match go to `nearest`.

    If the items' texts are more than titles, titles are read from the catalogue's attribute `title`. Letter
    case, punctuation, accents, a year in brackets and an English article are ignored; if two items differ in
    nothing else, the answer's year decides. Approximate matches are searched among the few items that are
    most similar in text space, by the share of common characters.

    Args:
        f: items per answer in `nearest`, F. A matched answer has one item, of weight 1, and its vector. With
            f = 0 no answer has items.
        similarity: share of common characters (`difflib` ratio) from which a match counts.
        weights: see `nearest`.

    Raises:
        ConfigError: a negative f, unknown weights, or a similarity outside 0 to 1.
    """

    def __init__(
        self, f: int = 5, *, similarity: float = 0.9, weights: Literal["softmax", "cosine"] = "softmax"
    ) -> None:
        if not 0 < similarity <= 1:
            raise ConfigError(
                f"localize.options.similarity = {similarity}: expected more than 0 and at most 1"
            )
        self._nearest = Nearest(f, weights=weights)
        self.f = f
        self.similarity = similarity

    def localize(self, answers: Sequence[str], catalogue: Catalogue, encoder: Encoder) -> Localization:
        """Localize M answers; `catalogue.titles` are the items' texts."""
        found = self._nearest.localize(answers, catalogue, encoder)
        if not self.f:
            return found
        named = matches(list(dict.fromkeys(answers)), catalogue, encoder, similarity=self.similarity)
        rows = [row for row, answer in enumerate(answers) if answer in named]
        if rows:
            ids = torch.tensor([named[answers[row]] for row in rows])
            found.items[rows], found.weights[rows] = 0, 0.0
            found.items[rows, 0], found.weights[rows, 0] = ids, 1.0
            found.embeddings[rows] = encoder.encode(catalogue.titles)[ids - 1]
        return found


def matches(
    answers: Sequence[str], catalogue: Catalogue, encoder: Encoder, *, similarity: float
) -> dict[str, int]:
    """Answer -> catalogue id, for answers that match a title exactly or approximately.

    If several items share the title, the answer's year decides, else the first item is taken.
    """
    plain: dict[str, int] = {}
    dated: dict[tuple[str, str], int] = {}
    names = catalogue.attributes.get(TITLE, catalogue.titles)
    for id, title in enumerate(names, start=1):
        plain.setdefault(bare(title), id)
        dated.setdefault((bare(title), _year(title)), id)
    plain.pop("", None)
    known = {answer: bare(answer) for answer in answers if "\n" not in answer and bare(answer)}
    found = {
        answer: dated.get((text, _year(answer)), plain[text])
        for answer, text in known.items()
        if text in plain
    }
    unsure = [answer for answer in known if answer not in found]
    if not unsure or similarity >= 1:
        return found
    close = top(encoder.encode(unsure), encoder.encode(catalogue.titles), min(CLOSE, catalogue.size))[1]
    for answer, rows in zip(unsure, close.tolist(), strict=True):
        ratios = [_ratio(known[answer], bare(names[row]), similarity) for row in rows]
        best = max(range(len(rows)), key=ratios.__getitem__)
        if ratios[best] >= similarity:
            found[answer] = rows[best] + 1
    return found


def bare(title: str) -> str:
    """A title without the details that people write differently (case, accents, articles, year)."""
    if not title.isascii():  # `é` is one code point or two, and LLMs often omit the accent
        parts = unicodedata.normalize("NFKD", title)
        title = unicodedata.normalize("NFKC", _ACCENTS.sub("", parts))
    text = re.sub(r"^[^\w(]+", "", _YEAR.sub("", title.casefold()))
    text = re.sub(r"^(?:the|an?) (?=\S)", "", text)
    text = re.sub(r", (?:the|an?)$", "", text)
    return " ".join(re.findall(r"\w+", text))


def _year(title: str) -> str:
    found = _YEAR.search(title)
    return found[1] if found else ""


def _ratio(one: str, other: str, least: float) -> float:
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
        return 0.0
    return matcher.ratio()
