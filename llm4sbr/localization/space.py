"""What all sources of answers share: the items' texts and vectors, the encoder and the localizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from llm4sbr import registry
from llm4sbr.config import Config
from llm4sbr.data.batches import collate, item_keys, item_sessions
from llm4sbr.data.prepared import Prepared, catalogue_hash
from llm4sbr.encoders import Memo, encoding
from llm4sbr.encoders.disk_cache import encode_cached
from llm4sbr.localizers.title import TITLE
from llm4sbr.progress import Advance
from llm4sbr.protocols import Catalogue, Engine, Localizer, Samples, Sessions, Unit


class Space(NamedTuple):
    """Data that all sources of answers share."""

    prepared: Prepared
    sessions: Sessions
    """What the samples refer to."""
    samples: Samples
    """Keys of the samples of all splits, sorted; those of the items if the answers are about items."""
    catalogue: Catalogue
    """A catalogue whose titles are the items' texts."""
    encoder: Memo
    localizer: Localizer
    items: Tensor
    """float32 (N, E), the items' vectors."""
    about: dict[str, Any]
    """Entries of every manifest."""


def item_texts(catalogue: Catalogue, kind: str) -> Catalogue:
    """The catalogue for localizers: titles are the items' texts, and the real titles an attribute."""
    if kind == "full":
        return Catalogue(catalogue.keys, catalogue.texts(), {TITLE: list(catalogue.titles)})
    return Catalogue(catalogue.keys, catalogue.titles)


def answer_texts(space: Space, table: pl.DataFrame, names: Sequence[str], kind: str) -> tuple[Space, int]:
    """The space in which items are represented by a source's answers about them.

    Args:
        space: the titles' space.
        table: the source's answers about items, see `answers_of`.
        names: of the perspectives.
        kind: `answers`, or `both` for the title and the answers.

    Returns:
        The space, and the number of items without an answer, for which their title stands.
    """
    catalogue = space.catalogue
    own = pl.DataFrame({"key": item_keys(torch.arange(1, catalogue.size + 1)).numpy()})
    rows = own.join(table, on="key", how="left", maintain_order="left").select(names).rows()
    said = ["\n".join(text for text in row if text) for row in rows]
    texts = [
        "\n".join((title, text) if kind == "both" else (text,)) if text else title
        for title, text in zip(catalogue.titles, said, strict=True)
    ]
    named = Catalogue(catalogue.keys, texts, {TITLE: list(catalogue.titles)})
    return space._replace(catalogue=named, items=space.encoder.encode(texts)), said.count("")


def open_space(
    config: Config,
    prepared: Prepared,
    catalogue: Catalogue,
    engine: Engine,
    advance: Advance,
    note: Callable[[str], None],
    *,
    unit: Unit,
) -> Space:
    """Create encoder and localizer, and encode the items.

    Args:
        config: all settings.
        prepared: the run's data.
        catalogue: its titles are the items' texts.
        engine: does the encoding.
        advance: called with the number of texts encoded.
        note: called with messages for the user.
        unit: what the answers are about.
    """
    chosen = config.localize
    encoder = registry.create("encoders", chosen.encoder, **chosen.encoder_options)
    localizer = registry.create("localizers", chosen.localizer, f=chosen.f, **chosen.options)
    make = partial(encoding, chosen.encoder, chosen.encoder_options)
    memo = Memo(encoder, advance=advance, work=partial(engine.map, make))
    about = {
        "catalogue": catalogue_hash(prepared.catalogue),
        "prompts": "",
        "encoder": encoder.fingerprint,
        "pooling": getattr(encoder, "pooling", "as the encoder has it"),
        "localizer": {"name": chosen.localizer, "f": chosen.f, **chosen.options},
        "item_text": chosen.item_text,
        "unit": unit,
    }
    sessions, samples = _asked_about(prepared, unit)
    order = samples.key.argsort()
    samples = Samples(*(part[order] for part in samples))
    items = encode_cached(catalogue.titles, memo, note=lambda text: note(f"localize: {text}"))
    return Space(prepared, sessions, samples, catalogue, memo, localizer, items, about)


def _asked_about(prepared: Prepared, unit: Unit) -> tuple[Sessions, Samples]:
    if unit == "item":
        return item_sessions(prepared.catalogue.size)
    parts = zip(*prepared.samples.values(), strict=True)
    return prepared.sessions, Samples(*(torch.cat(part) for part in parts))


def try_out(table: pl.DataFrame, names: Sequence[str], space: Space) -> None:
    """Localize nothing, so that settings that the localizer does not accept are refused early."""
    fit(space, table, names)
    nobody = torch.zeros(0, dtype=torch.int64)
    own = {"sessions": sessions_of(space, nobody)} if needs_sessions(space) else {}
    space.localizer.localize([], space.catalogue, space.encoder, **own)


def fit(space: Space, table: pl.DataFrame, names: Sequence[str]) -> None:
    """Fit a localizer that learns on training sessions, and on answers to training samples or about items."""
    learn = getattr(space.localizer, "fit", None)
    if learn is None:
        return
    if getattr(space.localizer, "needs_targets", False):
        answers, targets = _outcomes(space, table, names)
        learn(answers, space.prepared.train, space.catalogue, space.encoder, targets=targets)
        return
    train = space.prepared.samples["train"].key.tolist()
    seen = table if space.about["unit"] == "item" else table.filter(pl.col("key").is_in(train))
    answers = [text for name in names for text in seen[name]]
    learn(answers, space.prepared.train, space.catalogue, space.encoder)


def _outcomes(space: Space, table: pl.DataFrame, names: Sequence[str]) -> tuple[list[str], Tensor]:
    """The answers about all training samples, n of all perspectives, and their targets, int64 (n,)."""
    sessions, train = space.prepared.sessions, space.prepared.samples["train"]
    keys = train.key if space.about["unit"] != "item" else item_keys(sessions.items[train.end - 1])
    samples = pl.DataFrame({"key": keys.numpy(), "target": sessions.items[train.end].numpy()})
    told = samples.join(table, on="key", how="inner", maintain_order="left")
    return [text for name in names for text in told[name]], told["target"].to_torch().repeat(len(names))


def sessions_of(space: Space, samples: Tensor) -> Tensor:
    """Right-padded prefixes int64 (m, T) of samples int64 (m,)."""
    if not len(samples):
        return torch.zeros(0, 1, dtype=torch.int64)
    return collate(space.sessions, space.samples, samples).items


def needs_sessions(space: Space) -> bool:
    """Whether the localizer also needs the sessions that the answers are about."""
    return getattr(space.localizer, "needs_sessions", False)
