"""Perspectives whose prompts come from a wording file.

A wording is a TOML file with one table per perspective, so a new wording needs no code:

    [short]
    prompt = "The user chose {items}, most recently {last}. Name one more item. Only its title."
    item = "{title}{attributes}"     # also {name} (title without a year), {number}, {id}, {key} (of the data)
    separator = ", "
    items = 3                        # optional: show only the most recent items; 1: ask about items

With `items = 1` the prompt depends on the session's last item only. The LLM is then asked once about each
item of the catalogue, instead of about each session.

`paper` and `natural` are shipped with the package. Titles come from the data and are untrusted: whatever they
contain, a prompt shows them on one line and with a limited length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from llm4sbr import registry
from llm4sbr.config import read_toml
from llm4sbr.errors import ConfigError
from llm4sbr.perspectives.parsing import one_line, parse_answer, parse_sentence
from llm4sbr.protocols import Baseline, Catalogue, Horizon, Item, Sessions, Unit


class Wording(NamedTuple):
    """The templates of one perspective."""

    prompt: str
    """Template with {items} and optionally {last} or {last_name}."""
    item: str
    """Template of one item: {title} or {name}, and optionally {attributes}, {number}, {id}, {key}."""
    separator: str
    """Between two items."""
    items: int | None = None
    """Maximum number of most recent items shown; None for as many as the setting allows."""


class Worded:
    """A perspective that uses the templates of a wording file.

    Args:
        name: table of the wording file: `long`, `short`, `normal`.
        horizon: the representation its answers are aligned with, `long` or `short`.
        wording: `paper`, `natural`, or the path of a TOML file.
        max_items: maximum number of most recent items in a prompt.
        attributes: item attributes shown after the title; missing ones are left out.

    Raises:
        ConfigError: the wording cannot be used; the message names file and key.
    """

    def __init__(
        self,
        name: str,
        horizon: Horizon,
        *,
        wording: str | Path = "paper",
        max_items: int = 50,
        attributes: Sequence[str] = (),
    ) -> None:
        self.horizon = horizon
        self._wording = load_wording(wording, name)
        self._attributes = tuple(attributes)
        if self._attributes and "{attributes}" not in self._wording.item:
            raise ConfigError(
                f"{wording}: {name}.item: has no {{attributes}}, but infer.attributes asks for some"
            )
        self._shown = min(max_items, self._wording.items or max_items)
        self.unit: Unit = "item" if self._shown == 1 else "session"

    def prompt(self, items: Sequence[Item]) -> str:
        """The prompt for a session, oldest item first; only the most recent items of a long session."""
        shown = [
            self._wording.item.format(
                number=number,
                title=self._quotable(_title(item)),
                name=self._quotable(_name(item)),
                id=item.id,
                key=one_line(item.key),
                attributes=self._of(item),
            )
            for number, item in enumerate(items[-self._shown :], start=1)
        ]
        last = items[-1]
        listed = self._wording.separator.join(shown)
        return self._wording.prompt.format(
            items=listed, last=self._quotable(_title(last)), last_name=self._quotable(_name(last))
        )

    def parse(self, answer: str) -> str:
        """The item that an answer names; see `parsing.parse_answer`."""
        return parse_answer(answer)

    def _of(self, item: Item) -> str:
        values = [item.attributes[name] for name in self._attributes if item.attributes.get(name)]
        return f" ({self._quotable(one_line(', '.join(values)))})" if values else ""

    def _quotable(self, text: str) -> str:
        """A text that cannot close the quotation marks that a wording may put around it."""
        return text.replace('"', "”") if '"' in self._wording.prompt + self._wording.item else text


class Choose(Worded):
    """Lets the LLM choose from a short list that a co-occurrence model proposes from training data.

    A small model is better at ranking than at recalling titles. The list is in alphabetical order, so that
    the order contains no hint. There is no list before `fit`, and none for sessions that nothing follows.
    With the localizer `candidates` the answer is tied to the items of the same list.

    Args:
        size: items in the list.
        model: the baseline that proposes them.
        options: those of `Worded`.
    """

    def __init__(self, *, size: int = 20, model: str = "item-knn", **options: Any) -> None:
        super().__init__("choose", "long", **options)
        self.unit = "session"  # even if the wording shows one item: the list depends on the whole session
        self._size, self._model = size, model
        self._propose: Callable[[tuple[int, ...]], list[Item]] = lambda session: []

    def fit(self, sessions: Sessions, catalogue: Catalogue) -> None:
        """Fit the co-occurrence model on the training sessions."""
        import torch

        baseline: Baseline = registry.create("baselines", self._model, num_items=catalogue.size)
        baseline.fit(sessions)

        def propose(session: tuple[int, ...]) -> list[Item]:
            items = torch.tensor([session])
            scores = baseline.score(items, items > 0)[0]
            scores[items[0] - 1] = 0.0
            best = scores.topk(min(self._size, catalogue.size))
            found = [
                i + 1
                for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                if score > 0
            ]
            return sorted(map(catalogue.item, found), key=lambda item: (_title(item), item.id))

        self._propose = lru_cache(maxsize=65_536)(propose)

    def candidates(self, items: Sequence[Item]) -> list[Item]:
        """The items in the list; empty if an item is not in the catalogue."""
        known = tuple(item.id for item in items if item.id)
        return self._propose(known) if known else []

    def prompt(self, items: Sequence[Item]) -> str:
        """The question, followed by the list, one title per line."""
        listed = [_title(item) for item in self.candidates(items)]
        return "\n".join([super().prompt(items), *listed])


class Audience(Worded):
    """Asks who chooses the last item and for what purpose; the answer is a sentence, not a title.

    Args:
        options: those of `Worded`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("audience", "long", **options)

    def parse(self, answer: str) -> str:
        """The sentence; see `parsing.parse_sentence`."""
        return parse_sentence(answer)


def _title(item: Item) -> str:
    return one_line(item.title) or f"item {item.id}"


def _name(item: Item) -> str:
    """The title without its year, since small models tend to copy years, and years cost tokens."""
    return re.sub(r"(?<=\S) *\(\d{4}\)$", "", _title(item))


Long = partial(Worded, "long", "long")
"""Asks about the user's interest over the whole session, with the paper's qualifier "long-term"."""
Short = partial(Worded, "short", "short")
"""Asks about the user's most recent interest, with the paper's qualifier "short-term"."""
Complement = partial(Worded, "complement", "short")
"""Asks for an item that goes well with the last item."""
Next = partial(Worded, "next", "short")
"""Asks which item a user chooses next after the last item."""
Normal = partial(Worded, "normal", "long")
"""Asks as `Long` and `Short` do, but without a qualifier, to measure the effect of the qualifiers."""


def load_wording(wording: str | Path, name: str) -> Wording:
    """The table `name` of a shipped wording or of a TOML file.

    Raises:
        ConfigError: the wording, file or table does not exist, or a template has an unknown placeholder.
    """
    path = _find(str(wording))
    tables = read_toml(path)
    table = tables.get(name)
    if not isinstance(table, dict):
        there = ", ".join(f"[{name}]" for name in tables) or "nothing"
        raise ConfigError(f"{path}: no table [{name}] for the perspective {name!r}; it has {there}")
    return _checked(table, f"{path}: {name}")


def _find(wording: str) -> Path:
    folder = Path(str(files("llm4sbr") / "wordings"))
    shipped = sorted(path.stem for path in folder.glob("*.toml"))
    if wording in shipped:
        return folder / f"{wording}.toml"
    if not Path(wording).is_file():
        names = " or ".join(shipped)
        raise ConfigError(
            f"infer.wording = {wording!r}: no such file; take {names}, or the path of a TOML file"
        )
    return Path(wording)


def _checked(table: dict[str, Any], where: str) -> Wording:
    allowed = {
        "prompt": {"items", "last", "last_name"},
        "item": {"title", "name", "attributes", "number", "id", "key"},
    }
    unknown = sorted(table.keys() - set(Wording._fields))
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: unknown key; known: {', '.join(Wording._fields)}")
    for key in ("prompt", "item", "separator"):
        if not isinstance(table.get(key), str):
            raise ConfigError(f"{where}.{key}: expected a text, found {table.get(key)!r}")
    items = table.get("items")
    if items is not None and (type(items) is not int or items < 1):
        raise ConfigError(f"{where}.items: expected a whole number from 1, found {items!r}")
    for key, names in allowed.items():
        _check_placeholders(table[key], names, f"{where}.{key}")
    if not _placeholders(table["item"]) & {"title", "name"}:
        raise ConfigError(f"{where}.item: needs {{title}} or {{name}}")
    if not _placeholders(table["prompt"]):
        raise ConfigError(f"{where}.prompt: needs {{items}}, {{last}} or {{last_name}}")
    return Wording(table["prompt"], table["item"], table["separator"], items)


def _check_placeholders(template: str, allowed: set[str], where: str) -> None:
    try:
        fields = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; write {{{{ and }}}} for braces") from None
    for _, name, spec, conversion in fields:
        if name is not None and (name not in allowed or spec or conversion):
            known = ", ".join(f"{{{field}}}" for field in sorted(allowed))
            raise ConfigError(f"{where}: unknown placeholder {{{name}}}; known: {known}")


def _placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}
