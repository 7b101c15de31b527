"""Protocols of all components, and the data types they exchange.

Protocols are structural: a plugin satisfies one by having its members and imports nothing from this package.
Options are keyword arguments of the constructor; configuration objects are not passed to components.

Letters in shapes: B batch size, T session length, N catalogue size, D hidden size, E size of text vectors,
P perspectives, F items per answer, K length of a list, M samples. Catalogue ids are 1..N; 0 is padding.
`items` is int64 (B, T), right-padded; `mask` is bool (B, T), true at clicks; `intents` is float32 (B, P, E),
a zero row meaning that no intent is known; `scores` is float32 (B, N) whose column j belongs to item j + 1.

A component may have a class attribute `suggests`, from settings to values that suit it
(`{"infer.wording": "natural"}`): defaults where the user did not choose. It may also have `lacks`, from
optional capabilities (the page of each kind lists them) to the reason (`{"export": "it loops over rows"}`).
A backbone or fuser may have `tunes`, from its options to what `llm4sbr tune` tries: `[A, B]`, one of
these; `(LOW, HIGH)`, numbers between, whole ones if both are; `(LOW, HIGH, "log")`, even in the logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

Unit = Literal["session", "item"]
"""What an LLM is asked about: a session, or an item, for all sessions that end with it."""

Horizon = Literal["long", "short"]
"""The session vector that a perspective is aligned with: that of the whole session, or of its last item."""

PLUGIN_API = 1
"""Version of these protocols; a component whose class attribute `plugin_api` is another one is refused."""


class Item(NamedTuple):
    """One catalogue item as a perspective sees it."""

    id: int
    """Catalogue id, 1..N."""
    key: str
    """The item's id in the user's own data."""
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

    keys: Sequence[str]
    titles: Sequence[str]
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
    """Prefixes and their targets, as positions in `Sessions`.

    Sample m has the prefix `items[start[m]:end[m]]` and the target `items[end[m]]`, where `items` is
    `Sessions.items`. Prefixes are already cut to the maximum length.
    """

    start: Tensor
    """int64 (M,)."""
    end: Tensor
    """int64 (M,)."""
    key: Tensor
    """int64 (M,), `data.batches.sample_keys`: a hash of the prefix's items; equal for equal prefixes."""


class RawData(NamedTuple):
    """What a reader returns: the user's data with our column names, unfiltered."""

    interactions: pl.DataFrame
    """Columns `session` or `user` (str), `item` (str), `time` (Float64 seconds or Int64 order), `row` (Int64,
    line of the source file, from 1, with the header). `order` (Int64) tells clicks of one time apart."""
    items: pl.DataFrame
    """Columns `item` (str), `title` (str), further str columns are attributes."""
    ordered_only: bool = False
    """True if `time` is only an order within a user, not a time: gap, bins and temporal split need a time."""
    rejected: list[str] = []
    """One line per unreadable row: `file:row: field: reason`."""
    notes: list[str] = []
    """One line for each decision of the reader that the user should know."""


class Localization(NamedTuple):
    """Answers tied to real items."""

    items: Tensor
    """int64 (M, F), best first, 0 = none."""
    weights: Tensor
    """float32 (M, F), rows sum to 1, or all 0."""
    embeddings: Tensor
    """float32 (M, E); a zero row means no intent."""


class Encoded(NamedTuple):
    """A session encoded by a backbone."""

    long: Tensor
    """float (B, D): the whole session (the paper's H^g)."""
    short: Tensor
    """float (B, D): the last item (the paper's H^l)."""
    auxiliary: Tensor | None = None
    """Scalar auxiliary loss of the backbone, added to the training loss."""
    states: Tensor | None = None
    """float (B, T, D): states of the clicks, for a backbone whose `score` needs them."""
    mask: Tensor | None = None
    """bool (B, T): which states belong to clicks, for the same backbones."""
    items: Tensor | None = None
    """float (N, D): item embeddings from this forward pass, used for scoring them."""


@runtime_checkable
class Reader(Protocol):
    """Reads one kind of raw log. Constructor: `path: Path | None` and the reader's own options.

    Options of type `Path` are files and are passed as absolute paths. A reader may have `files()`, which
    lists the files that it reads; without it, a change of any file in `path` makes a run stale.
    """

    def read(self) -> RawData:
        """Read everything; raises `DataError` with file, row and field if the input cannot be used."""


@runtime_checkable
class LLM(Protocol):
    """Answers prompts.

    Optional: `answered`, None until `infer` sets it: called with prompt, answer and both's tokens, in turn.
    """

    fingerprint: str
    """Model, revision, precision and decoding settings: part of the answer cache's key."""

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, same order."""


@runtime_checkable
class Control(Protocol):
    """Takes the place of an LLM but answers without one, to show what an LLM's answers are worth."""

    fingerprint: str

    def answer(
        self, sessions: Sequence[Sequence[Item]], perspective: Perspective, answers: Sequence[str] | None
    ) -> list[str]:
        """One parsed answer per session; `answers` are those of the run's LLM, None if it has none."""


def is_control(component: object) -> TypeGuard[Control]:
    """Whether a component of kind `llms` is a control.

    Not by `isinstance`, which would read the fingerprint, and that may need a model that is not available.
    """
    return callable(getattr(type(component), "answer", None))


@runtime_checkable
class Perspective(Protocol):
    """A way to ask the LLM about a session.

    Optional: `fit(sessions, catalogue)`, called first, with the training `Sessions`; `candidates(items)`,
    the items besides the session's that the prompt shows, which the prompt audit allows; and
    `unit = "item"` if the prompt depends on the last item only. If all perspectives of a run say so, the LLM
    is asked about every item of the catalogue instead of about sessions, and every session has answers.
    """

    horizon: Horizon

    def prompt(self, items: Sequence[Item]) -> str:
        """The prompt for a session, oldest item first; it never contains the target."""

    def parse(self, answer: str) -> str:
        """The useful part of an answer, "" if there is none."""


@runtime_checkable
class Encoder(Protocol):
    """Turns text into vectors."""

    fingerprint: str
    """Model, pooling and every other setting that changes a vector; key of the vector cache."""
    dim: int
    """E."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """float32 (len(texts), E) on the CPU."""


@runtime_checkable
class Localizer(Protocol):
    """Ties answers to catalogue items. Constructor: `f`, items per answer, and own options.

    Optional: `fit(answers, sessions, catalogue, encoder)`, called first, with the answers to training samples
    and the training `Sessions`; the class attribute `needs_sessions = True`, which makes `localize` also get
    `sessions`, int64 (M, T), the prefixes that were asked about; `needs_targets = True`, which makes `fit`
    also get `targets`, int64 (n,), what came next in the training samples of its n answers; and `facts`,
    which are saved and shown.
    """

    def localize(self, answers: Sequence[str], catalogue: Catalogue, encoder: Encoder) -> Localization:
        """Localize M answers; an empty answer gives a zero row. `catalogue.titles` are the items' texts."""


@runtime_checkable
class Backbone(Protocol):
    """A session encoder over item ids; an `nn.Module`. Constructor: `num_items`, `dim`, own options.

    Optional, if scores are not `fused @ items.T`: `query(fused) -> (B, D)`, a transformation of the session
    vector before the product, such as scaling it to length 1; or `score(fused, encoded) -> (B, N)`, which
    replaces the product but rules out small tables in exported models. Optional class attributes:
    `plain_readout = "long"`: without a fuser, the session vector is `long`, not a map of both;
    `own_items_first = True`: own items score highest by construction, so the next is expected after them;
    `item_ids`: buffers (N, S) of catalogue ids. A parameter `items` (N, D) can start as text vectors.
    """

    def fit(self, sessions: Sessions) -> None:
        """Build what depends on data (such as global graphs), from training sessions only."""

    def item_embeddings(self) -> Tensor:
        """Float (N, D), as used for scoring."""

    def __call__(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T)."""


@runtime_checkable
class Fuser(Protocol):
    """Combines several vectors into one; an `nn.Module`. Constructor: `dim`, `perspectives`, own options.

    Optional: `agreement(behavioural, semantic, known)`, two scalars with the weight `train.tau`, in the place
    of the losses alignment and uniformity; arguments as those of `fusion.losses.agreement`.
    """

    def __call__(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D)."""


@runtime_checkable
class CatalogueFuser(Fuser, Protocol):
    """A fuser that also scores items by their text. Constructor: `num_items` and `text_dim` besides.

    Its class has `needs_catalogue = True`. What `fit` stores are buffers, saved with the model.
    Optional: `texts(items)`, the title vectors of int64 (B, T) as float (B, T, E), from which the predictor
    of intents learns more than from session vectors alone. Optional, for scores that are inner products:
    `factors(items) -> [(N, Q), ...]` for embeddings (N, D) and `queries(fused, intents) -> [(B, Q), ...]`,
    the first being `fused`. The sum of their products equals `rescore` of `fused @ items.T`; exported graphs
    then only read constant tables. Optional: `repeats`, a scalar added to a session's own items' scores.
    """

    needs_catalogue: bool

    def fit(self, titles: Tensor, clicks: Tensor) -> None:
        """Store, before training, the catalogue's text vectors, float (N, E), and its click counts.

        `clicks`, int64 (N,): number of clicks of each item in training sessions.
        """

    def rescore(self, scores: Tensor, fused: Tensor, intents: Tensor | None) -> Tensor:
        """The backbone's scores (B, N) for `fused` (B, D) -> scores (B, N) that also depend on text.

        `intents` is (B, p, E), p <= P, with zero rows for unknown intents, or None, which equals zeros.
        """


@runtime_checkable
class Baseline(Protocol):
    """Recommends without a neural network. Constructor: `num_items`, own options.

    Optional: `notes`, lines about the fit; `neighbours(m)` and `decay`, if scores are sums over clicks of
    each item's weights times exp(-age / decay); `needs_text`: `fit_text` gets the text vectors (N, E) after
    `fit`; `needs_answers`: `score` gets the LLM's, `Localization` of (B, P, ...); `asks`: `evaluation.asked`.
    """

    def fit(self, sessions: Sessions) -> None:
        """Count or estimate what is needed, from training sessions only."""

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """float32 (B, N) for int64 (B, T) under bool (B, T)."""


@runtime_checkable
class Engine(Protocol):
    """Where `infer` and `localize` do their work. Constructor: own options."""

    workers: int
    """Number of blocks that are processed in parallel."""

    def map(self, make: Callable[[], Callable[[Any], Any]], blocks: Iterable[Any]) -> Iterator[Any]:
        """The result for every block, in order; only a few blocks are read ahead.

        Args:
            make: creates the work function, once per worker, in the worker; calling with the same `make`
                again reuses the workers. `make`, blocks and results must be picklable.
            blocks: the inputs.

        Raises:
            Llm4sbrError: raised by the work; keeps its class.
        """

    def close(self) -> None:
        """Release the workers."""
