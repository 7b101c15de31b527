"""A recommendation as plain data, without torch, the same for every kind of model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llm4sbr import frames
from llm4sbr.errors import InputError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.attributes import Attributes, Value
from llm4sbr.serving.titles import Resolved

if TYPE_CHECKING:
    import polars as pl

Source = Literal["cache", "items", "predictor", "nearest", "none"]
SOURCES: tuple[Source, ...] = ("cache", "items", "predictor", "nearest", "none")
"""Sources of a live session's intents, in the order in which `auto` tries them.

cache      the LLM was asked about this session
items      the LLM was asked about its last item, as by all perspectives that ask about items
predictor  the model predicts the intents from the clicks
nearest    those of the known session that has the same last item and shares the most items with this one
none       zero intents, as for training samples without an answer
"""


UNKNOWN = ("skip", "fail")
"""What to do with items of a session that the model does not know: leave them out, or refuse the session."""

LENGTH = 10
"""Default number of items in a list."""

TIED = 5
"""Number of items that explain a predicted intent."""


@dataclass(frozen=True)
class Recommended:
    """One recommended item."""

    id: int
    key: str
    title: str
    score: float


@dataclass(frozen=True)
class Described(Recommended):
    """One recommended item with its attributes, for those who ask for them."""

    attributes: dict[str, Value]
    """Without those that are unknown."""


@dataclass(frozen=True)
class Tied:
    """An item that an intent is tied to."""

    id: int
    key: str
    title: str
    weight: float


@dataclass(frozen=True)
class PerspectiveIntent:
    """The LLM's answer from one perspective, and the items it was tied to."""

    perspective: str
    answer: str
    """The parsed answer; "" if it was unusable, is not kept, or the intent was predicted."""
    items: list[Tied]
    """Best first."""


@dataclass(frozen=True)
class Explanation:
    """Source of the intents."""

    source: Source
    session: list[str] = field(default_factory=list)
    """Titles of the known session whose answers are used."""
    perspectives: list[PerspectiveIntent] = field(default_factory=list)


@dataclass(frozen=True)
class Recommendation:
    """A list of items, and how it was computed."""

    items: list[Recommended]
    """Best first."""
    session: list[Resolved]
    """The session as it was recognised."""
    variant: str
    seed: int | None
    """None if the artefact does not record it."""
    intents: Explanation | None
    """Where the intents came from; None if the model uses none."""
    engine: str = "pytorch"
    """What computed it: `pytorch`, or an artefact's kind and provider, such as `onnx, cpu`."""
    left_out: list[str] = field(default_factory=list)
    """Keys or titles of the session that no item has."""
    passing: int | None = None
    """How many items of the catalogue pass the filters; None if there are none."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user: why a list is empty, or is not made for the session."""

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and dictionaries, for JSON."""
        return asdict(self)

    def frame(self) -> pl.DataFrame:
        """The list as a data frame of polars: `rank`, `id`, `key`, `title`, `score`, and attributes."""
        return frames.to_polars(self._columns())

    def to_pandas(self) -> Any:
        """The list as a data frame of pandas, as `frame`."""
        return frames.to_pandas(self._columns())

    def _repr_html_(self) -> str:
        session = " | ".join(one.title for one in self.session)
        return frames.to_html(self._columns(), f"After {session}" if session else "", self.notes)

    def _columns(self) -> dict[str, list[Any]]:
        names = ("id", "key", "title", "score")
        found: dict[str, list[Any]] = {"rank": list(range(1, len(self.items) + 1))}
        found |= {name: [getattr(item, name) for item in self.items] for name in names}
        further = frames.columns_of([getattr(item, "attributes", {}) for item in self.items])
        return found | {name: values for name, values in further.items() if name not in found}


def recommended(
    catalogue: Catalogue, pairs: Iterable[tuple[int, float]], attributes: Attributes | None = None
) -> list[Recommended]:
    """Catalogue ids and scores as items with their titles, and attributes where they are given."""
    keys, titles = catalogue.keys, catalogue.titles
    if attributes is None:
        return [Recommended(id, keys[id - 1], titles[id - 1], score) for id, score in pairs]
    return [Described(id, keys[id - 1], titles[id - 1], score, attributes.item(id)) for id, score in pairs]


def tied(catalogue: Catalogue, pairs: Iterable[tuple[int, float]]) -> list[Tied]:
    """Catalogue ids and weights as items with their titles; id 0 is none."""
    keys, titles = catalogue.keys, catalogue.titles
    return [Tied(id, keys[id - 1], titles[id - 1], weight) for id, weight in pairs if id]


def check(k: int | None, source: str, unknown: str = "skip", *, takes_intents: bool) -> None:
    """Raise `InputError` if a list of k items or intents from `source` cannot be given."""
    if unknown not in UNKNOWN:
        raise InputError(f"unknown = {unknown!r}: expected {' or '.join(UNKNOWN)}")
    if k is not None and (not isinstance(k, int) or k < 1):
        raise InputError(f"k = {k!r}: expected a list of at least 1 item")
    if source not in ("auto", *SOURCES):
        raise InputError(f"source = {source!r}: expected auto, {', '.join(SOURCES)}")
    if not takes_intents and source not in ("auto", "none"):
        raise InputError(f"source = {source!r}: this model takes no intents; leave the source out")
