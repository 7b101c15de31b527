"""What the exchangeable parts look like, and the tuples they exchange.

Everything here is structural: a plugin satisfies a protocol by having its members and imports nothing
from this package to do so. Options are keyword arguments of the constructor; configuration objects stop
at `registry.create`.

Letters used in every docstring: B batch, T session length, N catalogue size, D model width, E text
width, P perspectives, F located items, K list length, M samples.

Catalogue ids are 1..N; 0 is padding. `items` is int64 (B, T), right-padded; `mask` is bool (B, T), true
at clicks; `intents` is float32 (B, P, E), a zero row meaning that no intent is known; `scores` is
float32 (B, N) whose column j belongs to item j + 1.

A component may carry a class attribute `suggests`, a mapping from a configuration key to a value that
suits it (`{"infer.wording": "natural"}`); it is used where the user did not choose.
Another is `lacks`, from an optional capability of its kind to why it is not there (`{"export": "it loops over
rows"}`): the contract tests then leave it out. Which are optional, the kind's page says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

Horizon = Literal["long", "short"]
"""Which behavioural representation a perspective is aligned with: the whole session or its last item."""

PLUGIN_API = 1
"""Version of the protocols in this module. A component states the one it was written for by a class attribute
`plugin_api`; one that states another is refused when it is asked for."""


class Item(NamedTuple):
    """One catalogue item as a perspective sees it."""

    id: int
    """Catalogue id, 1..N."""
    key: str
    """The id in the user's own data."""
    title: str
    attributes: Mapping[str, str] = {}
    """Further text such as `year` or `category`; a missing value has no entry."""

    @property
    def text(self) -> str:
        """Title and attributes as one line, e.g. `Toy Story (1995), Animation Comedy`."""
        extra = [value for value in self.attributes.values() if value and value not in self.title]
        return ", ".join([self.title, *extra])


class Catalogue(NamedTuple):
    """All items of a run, in catalogue order: row i describes item i + 1."""

    keys: list[str]
    titles: list[str]
    attributes: dict[str, list[str]] = {}
    """Column name -> one text per item, "" where unknown."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.keys)

    def item(self, id: int) -> Item:
        """The item with catalogue id `id` (1..N)."""
        if not 1 <= id <= len(self.keys):
            raise IndexError(f"catalogue id {id} is not in 1..{len(self.keys)}")
        row = id - 1
        extra = {name: column[row] for name, column in self.attributes.items() if column[row]}
        return Item(id, self.keys[row], self.titles[row], extra)

    def texts(self) -> list[str]:
        """`Item.text` of every item, in order."""
        return [self.item(i + 1).text for i in range(len(self.keys))]


class Sessions(NamedTuple):
    """Sessions as one flat tensor: session s is `items[offsets[s]:offsets[s + 1]]`."""

    items: Tensor
    """int64 (total clicks,), catalogue ids 1..N, oldest first within a session."""
    offsets: Tensor
    """int64 (sessions + 1,), starts at 0."""


class Samples(NamedTuple):
    """Prefixes with their next item, by position in `Sessions`.

    Sample m has the prefix `items[start[m]:end[m]]` and the target `items[end[m]]`, positions being
    those of the flat `Sessions.items`. Prefixes are already cut to the longest length allowed.
    """

    start: Tensor
    """int64 (M,)."""
    end: Tensor
    """int64 (M,)."""
    key: Tensor
    """int64 (M,), `data.batches.sample_keys`: a hash of the prefix's items; equal prefixes, equal keys."""


class RawData(NamedTuple):
    """What a reader returns: the user's data with our column names, nothing filtered yet."""

    interactions: pl.DataFrame
    """Columns `session` or `user` (str), `item` (str), `time` (Float64 seconds or Int64 order), `row` (Int64,
    line of the source file, 1-based, header counted); sorted by nothing in particular."""
    items: pl.DataFrame
    """Columns `item` (str), `title` (str), further str columns are attributes."""
    ordered_only: bool = False
    """True if `time` is an order within the user, not a clock: no gap, bins or temporal split then."""
    rejected: list[str] = []
    """One line per row that could not be read: `file:row: field: why`."""
    notes: list[str] = []
    """What the reader decided or noticed and the user should know, one line each."""


class Localization(NamedTuple):
    """Answers tied to real items."""

    items: Tensor
    """int64 (M, F), best first, 0 = none."""
    weights: Tensor
    """float32 (M, F), rows sum to 1, or all 0."""
    embeddings: Tensor
    """float32 (M, E); a zero row means no intent."""


class Encoded(NamedTuple):
    """A session as a backbone sees it."""

    long: Tensor
    """float (B, D): the whole session (the paper's H^g)."""
    short: Tensor
    """float (B, D): the last item (the paper's H^l)."""
    auxiliary: Tensor | None = None
    """Scalar loss of the backbone's own, added to the training loss."""
    states: Tensor | None = None
    """float (B, T, D): per-click states, for backbones whose `score` needs them."""
    mask: Tensor | None = None
    """bool (B, T): which of the states are clicks, for the same backbones."""
    items: Tensor | None = None
    """float (N, D): item embeddings that the forward pass computed, and that sessions are scored with."""


@runtime_checkable
class Reader(Protocol):
    """Reads one kind of raw log. Constructor: `path: Path | None` and the reader's own options.

    Options whose type is a `Path` are files: they are handed over with their full names. A reader may have
    `files()`, the list of files that it reads; without it, a change of any file in `path` makes a run stale.
    """

    def read(self) -> RawData:
        """Read everything; raise `DataError` with file, row and field on unusable input."""
        ...


@runtime_checkable
class LLM(Protocol):
    """Answers prompts."""

    fingerprint: str
    """Model, revision, precision and decoding settings: part of the answer cache's key."""

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, same order."""
        ...


@runtime_checkable
class Control(Protocol):
    """Stands where an LLM stands and answers without one, to show what an LLM's answers are worth."""

    fingerprint: str

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """One parsed answer per session; `answers` are those of the run's own LLM, None if it has none."""
        ...


def is_control(component: object) -> TypeGuard[Control]:
    """Whether a component of kind `llms` is a control.

    `isinstance` would read the fingerprint, which may need a model that is not there.
    """
    return callable(getattr(type(component), "answer", None))


@runtime_checkable
class Perspective(Protocol):
    """A way to ask the LLM.

    Optional: `fit(sessions, catalogue)`, called before with the training `Sessions`; and `candidates(items)`,
    the items beyond the session that the prompt names, so that the audit knows them.
    """

    horizon: Horizon

    def prompt(self, items: Sequence[Item]) -> str:
        """The prompt for a session, oldest item first; it never sees the target."""
        ...

    def parse(self, answer: str) -> str:
        """The useful part of an answer, "" if there is none."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Turns text into vectors."""

    fingerprint: str
    """Model, pooling and everything else that changes a vector: catalogues' vectors are kept under it."""
    dim: int
    """E."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """float32 (len(texts), E) on the CPU."""
        ...


@runtime_checkable
class Localizer(Protocol):
    """Ties answers to catalogue items. Constructor: `f`, items per answer, and own options.

    Optional: `fit(answers, sessions, catalogue, encoder)`, called before with the answers to training samples
    and the training `Sessions`; and the class attribute `needs_sessions = True`, by which `localize` is given
    `sessions` besides, int64 (M, T), the prefixes that the answers are about; and `facts`, a dictionary of
    what should be known about the result (the recall of an approximate search), kept with it and shown.
    """

    def localize(self, answers: Sequence[str], catalogue: Catalogue, encoder: Encoder) -> Localization:
        """Localize M answers; an empty answer gives a zero row. `catalogue.titles` is the items' text."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A session encoder over item ids; an `nn.Module`. Constructor: `num_items`, `dim`, own options.

    Optional besides, where scores are more than `fused @ items.T` of the session's vector float (B, D) and
    the item embeddings: `query(fused) -> (B, D)`, what becomes of that vector before, such as its direction;
    or `score(fused, encoded) -> (B, N)`, in place of the product, which costs exported models their small
    tables. Optional class attributes: `plain_readout = "long"`, without a fuser the session's vector is
    `long`, not a map of both; `own_items_first = True`, a session's own items always score highest, by
    construction, and so what comes next can be told from two clicks on, behind them.
    """

    def fit(self, sessions: Sessions) -> None:
        """Build what comes from data (global graphs), from training sessions only."""
        ...

    def item_embeddings(self) -> Tensor:
        """Float (N, D), as used for scoring."""
        ...

    def __call__(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T)."""
        ...


@runtime_checkable
class Fuser(Protocol):
    """Makes one vector of many; an `nn.Module`. Constructor: `dim`, `perspectives`, own options."""

    def __call__(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D)."""
        ...


@runtime_checkable
class CatalogueFuser(Fuser, Protocol):
    """A fuser by which text reaches the catalogue. Constructor: `num_items` and `text_dim` besides.

    Its class says so by `needs_catalogue = True`. What `fit` takes over is a buffer, saved with the model.
    Optional besides: `texts(items)`, the titles' vectors of int64 (B, T) as float (B, T, E), from which the
    predictor of intents learns more than from the session's vectors alone.
    Optional besides, for scores that are inner products: `factors(items) -> [(N, Q), ...]` of embeddings
    (N, D) and `queries(fused, intents) -> [(B, Q), ...]`, the first being `fused`. The sum of their products
    is what `rescore` makes of `fused @ items.T`; exported graphs then read constant tables and nothing else.
    Optional besides: `repeats`, a scalar that is added to the scores of a session's own items afterwards.
    """

    needs_catalogue: bool

    def fit(self, titles: Tensor, clicks: Tensor) -> None:
        """Take over, before training, the catalogue's text vectors, float (N, E), and its clicks.

        `clicks`, int64 (N,), are how often each item occurs in training sessions.
        """
        ...

    def rescore(self, scores: Tensor, fused: Tensor, intents: Tensor | None) -> Tensor:
        """Scores (B, N) of the backbone for `fused` (B, D) -> scores (B, N) that text has its part in.

        `intents` are (B, p, E), p <= P, with zero rows where none is known, or None: the same as zeros.
        """
        ...


@runtime_checkable
class Baseline(Protocol):
    """Recommends without a network. Constructor: `num_items`, own options.

    Optional: `notes`, one line each of what the user should know about the fit; `neighbours(m)` and
    `click_weights(mask)`, for scores that are sums of the clicks' weights for each item (`baselines.slist`).
    """

    def fit(self, sessions: Sessions) -> None:
        """Count what there is to count, in training sessions only."""
        ...

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """float32 (B, N) for int64 (B, T) under bool (B, T)."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Where `infer` and `localize` do their work. Constructor: own options."""

    workers: int
    """Blocks that are worked on side by side."""

    def map(self, make: Callable[[], Callable[[Any], Any]], blocks: Iterable[Any]) -> Iterator[Any]:
        """The work's result for every block, in their order; a few blocks ahead are taken, not all.

        Args:
            make: makes the work, once per worker and where it is done; the same `make` again finds its
                workers still there. It, blocks and results must be able to travel between processes.
            blocks: what to work on.

        Raises:
            Llm4sbrError: what the work raised, of its own kind.
        """
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...
