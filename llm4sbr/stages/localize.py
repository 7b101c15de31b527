"""Stage `localize`: ties the answers to items of the catalogue and stores them as intents, by sample.

`localize.item_text` chooses the items' texts; encoder and localizer get a catalogue with these texts as
titles. All sources of answers share one cache of encoded texts, so common texts are encoded once; the
catalogue's vectors are cached on disk for other runs (`encoders/disk_cache.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from llm4sbr import registry, stamps, store
from llm4sbr.config import Config
from llm4sbr.data.batches import collate, item_sessions
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.encoders import Memo, encoding
from llm4sbr.encoders.disk_cache import encode_cached
from llm4sbr.errors import StoreError
from llm4sbr.evaluation import answer_quality
from llm4sbr.freshness import LLM, part_stamp
from llm4sbr.intents import IntentStore, IntentWriter
from llm4sbr.intents.texts import Located, Meanings, Texts
from llm4sbr.localizers import top
from llm4sbr.localizers.title import TITLE
from llm4sbr.progress import Advance, Progress
from llm4sbr.protocols import Catalogue, Engine, Localizer, Samples, Sessions, Unit
from llm4sbr.stamps import Attempt, Stamp

BLOCK = 16_384
"""Texts localized, and samples written, per block."""

ITEMS = "items.safetensors"
"""File with the items' vectors."""

SUMMARY = "localize.json"
"""File with the summary of all sources."""

ABOUT = "about.json"
"""Summary in a source's folder, which becomes part of `localize.json`."""


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


def localize(
    run: Path, out: Path, config: Config, progress: Progress, attempt: Attempt | None = None
) -> None:
    """Turn the answers in `run/infer` into intents.

    Writes a folder of intents per source of answers, `items.safetensors` with the items' vectors, and
    `localize.json` with what the answers turned out to be. Without answers only the last is written.
    Sources that are there already are kept.

    Args:
        run: has `prepare` and `infer`.
        out: the folder to write.
        config: all settings.
        progress: shows the texts encoded.
        attempt: the existing parts; called when all checks have passed.

    Raises:
        StoreError: files of an earlier stage are missing, damaged, or do not belong together.
        ModelUnavailableError: the encoder's weights cannot be had here.
        RegistryError: no such encoder or localizer, or an option that it does not take.
        ConfigError: a setting that the encoder or the localizer cannot work with.
    """
    attempt = attempt or Attempt.alone(out, "localize")
    sources = _sources(run / "infer")
    wanted = {name: part_stamp(run, name, attempt) for name in sources}
    missing = {name: stamp for name, stamp in wanted.items() if not attempt.has(name, stamp)}
    summary = _kept(out, attempt) if sources and not missing else None
    if summary is None:
        summary = _made(run, out, config, missing, progress, attempt) if sources else {}
    attempt.begin()
    about = {name: store.read_json(out / name / ABOUT) for name in sources}
    store.write_json(out / SUMMARY, {"sources": about, **summary})


def _kept(out: Path, attempt: Attempt) -> dict[str, Any] | None:
    """The old summary, if all intents are there; also loads the items' vectors."""
    for place in (out, attempt.before):
        if place and (place / SUMMARY).exists() and (place / ITEMS).exists():
            summary: dict[str, Any] = store.read_json(place / SUMMARY)
            if store.file_sha256(place / ITEMS) == summary["files"][ITEMS]:
                attempt.begin()
                store.link_file(place / ITEMS, out / ITEMS)
                return {name: value for name, value in summary.items() if name != "sources"}
    return None


def _made(
    run: Path,
    out: Path,
    config: Config,
    missing: Mapping[str, Stamp],
    progress: Progress,
    attempt: Attempt,
) -> dict[str, Any]:
    """Localize what is missing; returns the summary of all sources."""
    names = list(config.infer.perspectives)
    prepared = load(run / "prepare")
    catalogue = _texts(prepared.catalogue, config.localize.item_text)
    distinct = _distinct(catalogue.titles, [run / "infer" / name for name in missing], names)
    engine: Engine = registry.create("engines", config.engine.name, **config.engine.options)
    with progress.task("localize", distinct, unit="texts") as advance, closing(engine):
        unit = _unit(run / "infer")
        space = _space(config, prepared, catalogue, engine, advance, progress.note, unit=unit)
        for name in list(missing)[:1]:
            _try(_answers(run / "infer" / name, names), names, space)
        attempt.begin()
        store.write_tensors(out / ITEMS, {"items": space.items})
        first: Located | None = None
        for name, stamp in missing.items():
            stamps.begin_part(out / name, stamp)
            space.about["prompts"] = _fingerprint(run / "infer" / name)
            found = _localize_source(out / name, _answers(run / "infer" / name, names), names, space, first)
            first = first or found  # `shuffled` has the LLM's texts in another order
            _finish(out / name, prepared, space)
    summary = {"files": {ITEMS: store.file_sha256(out / ITEMS)}, "llm": config.infer.llm, **space.about}
    facts = getattr(space.localizer, "facts", {})
    if facts:
        summary["facts"] = facts
        progress.note(f"localize: {', '.join(f'{name} {value}' for name, value in facts.items())}")
    return summary


def _sources(infer: Path) -> list[str]:
    """Sources of answers that were asked for last, the LLM first; without a record all that exist."""
    if (infer / "infer.json").exists():
        return list(store.read_json(infer / "infer.json")["sources"])
    found = [path.name for path in infer.iterdir() if path.is_dir()] if infer.exists() else []
    return sorted(found, key=lambda name: (name != LLM, name))


def _unit(infer: Path) -> Unit:
    """What the answers are about."""
    path = infer / "infer.json"
    unit: Unit = store.read_json(path).get("unit", "session") if path.exists() else "session"
    return unit


def _fingerprint(folder: Path) -> str:
    stamp = stamps.read_stamp(folder)
    return stamp.fingerprint if stamp else ""


def _try(table: pl.DataFrame, names: Sequence[str], space: Space) -> None:
    """Localize nothing, so that settings that the localizer does not accept are refused early."""
    _fit(space, table, names)
    nobody = torch.zeros(0, dtype=torch.int64)
    own = {"sessions": _sessions(space, nobody)} if _needs_sessions(space) else {}
    space.localizer.localize([], space.catalogue, space.encoder, **own)


def _finish(folder: Path, prepared: Prepared, space: Space) -> None:
    """Mark a source as finished, and save its summary in its folder, in case it is reused later."""
    intents = IntentStore.open(folder)
    alone = answer_quality.by_intent_alone(intents, prepared, space.items)
    store.write_json(folder / ABOUT, intents.manifest["statistics"] | {"by_intent_alone": alone})
    stamps.finish_part(folder)


def _answers(folder: Path, names: Sequence[str]) -> pl.DataFrame:
    """Parsed answers: `key` ascending, and a column per perspective, "" for none."""
    table = pl.DataFrame({"key": pl.Series([], dtype=pl.Int64)})
    for name in names:
        path = folder / f"{name}.parquet"
        part = store.read_table(path, ["key", "parsed"]).rename({"parsed": name})
        if part["key"].n_unique() != len(part):
            raise StoreError(f"{path}: a sample has two answers; delete {folder.parent} and run infer again")
        table = table.join(part, on="key", how="full", coalesce=True)
    return table.with_columns(pl.col(names).fill_null("")).sort("key")


def _distinct(titles: Sequence[str], folders: Sequence[Path], names: Sequence[str]) -> int:
    """Number of lines of text to encode; keeps one source's tables in memory at a time."""
    texts = pl.Series(titles)
    for folder in folders:
        table = _answers(folder, names)
        texts = pl.concat([texts, *(table[name].rename("") for name in names)]).unique()
    return texts.str.split("\n").list.explode().n_unique()


def _texts(catalogue: Catalogue, kind: str) -> Catalogue:
    """The catalogue for localizers: titles are the items' texts, and the real titles an attribute."""
    if kind == "full":
        return Catalogue(catalogue.keys, catalogue.texts(), {TITLE: catalogue.titles})
    return Catalogue(catalogue.keys, catalogue.titles)


def _space(
    config: Config,
    prepared: Prepared,
    catalogue: Catalogue,
    engine: Engine,
    advance: Advance,
    note: Callable[[str], None],
    *,
    unit: Unit,
) -> Space:
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


def _localize_source(
    folder: Path, table: pl.DataFrame, names: Sequence[str], space: Space, before: Located | None
) -> Located | None:
    """Write the intents of one source; returns its texts, if another source may use what they mean."""
    keys = table["key"].to_torch()
    index = torch.searchsorted(space.samples.key, keys).clamp_max(len(space.samples.key) - 1)
    if not torch.equal(space.samples.key[index], keys):
        raise StoreError(
            f"{folder.name}: answers for sessions that prepare does not have; run infer again with --force"
        )
    _fit(space, table, names)
    writer = IntentWriter(folder, names, about={"source": folder.name, **space.about})
    alone = not _needs_sessions(space)
    texts = Texts.distinct(table, names) if alone else Texts.one_each(table, names)
    found = _localize_texts(writer, texts, space, index, before if alone else None)
    again = torch.zeros(len(names), dtype=torch.int64)
    for start in range(0, len(table), BLOCK):
        block = slice(start, start + BLOCK)
        writer.assign(keys[block], found.rows[texts.of[block]])
        clicked = _sessions(space, index[block])
        best = found.meanings.best[texts.of[block]].unsqueeze(2)  # (m, P, 1)
        again += ((best == clicked.unsqueeze(1)) & (best > 0)).any(2).sum(0)
    writer.close(answer_quality.statistics(table, names, texts.counts(), found.meanings, again))
    return found if alone and not hasattr(space.localizer, "fit") else None


def _fit(space: Space, table: pl.DataFrame, names: Sequence[str]) -> None:
    """Fit a localizer that learns on training sessions, and on answers to training samples or about items."""
    fit = getattr(space.localizer, "fit", None)
    if fit is not None:
        train = space.prepared.samples["train"].key.tolist()
        seen = table if space.about["unit"] == "item" else table.filter(pl.col("key").is_in(train))
        answers = [text for name in names for text in seen[name]]
        fit(answers, space.prepared.train, space.catalogue, space.encoder)


def _localize_texts(
    writer: IntentWriter, texts: Texts, space: Space, index: Tensor, before: Located | None
) -> Located:
    """Store what each text means.

    Args:
        writer: stores it.
        texts: n texts of M samples.
        space: localizer, encoder, catalogue.
        index: int64 (M,), the samples in `space.samples`, for a localizer that looks at sessions.
        before: another source's texts; what it has is not localized again.
    """
    known = texts.among(before.texts) if before else torch.full((len(texts.texts),), -1)
    rows, meanings = [], []
    for start in range(0, max(1, len(texts.texts)), BLOCK):  # once without texts: it sets E and F
        block = slice(start, start + BLOCK)
        some, there = texts.texts[block].to_list(), known[block]
        new = (there < 0).nonzero().squeeze(1)
        wanted = [some[place] for place in new.tolist()]
        own = {}
        if _needs_sessions(space):
            samples = index[torch.arange(start, start + len(some)) // texts.of.shape[1]]
            own = {"sessions": _sessions(space, samples)}
        found = space.localizer.localize(wanted, space.catalogue, space.encoder, **own)
        vectors = space.encoder.encode(wanted)
        first = _closest(wanted, vectors, space) if not found.items.shape[1] else found.items[:, 0]
        near = cosine_similarity(vectors, space.items[(first - 1).clamp_min(0)]) * (first > 0)
        kinds = answer_quality.kinds(wanted, space.prepared.catalogue, space.encoder)
        parts = [found.embeddings.half(), found.items, found.weights.half(), first, near, kinds]
        if before and len(new) < len(some):
            parts = before.completed(parts, new, there)
        rows.append(writer.store(*parts[:3]))
        meanings.append(parts[3:])
    whole = Meanings(*map(torch.cat, zip(*meanings, strict=True)))
    return Located(texts.texts, writer.folder, torch.cat(rows), whole)


def _sessions(space: Space, samples: Tensor) -> Tensor:
    """Right-padded prefixes int64 (m, T) of samples int64 (m,)."""
    if not len(samples):
        return torch.zeros(0, 1, dtype=torch.int64)
    return collate(space.sessions, space.samples, samples).items


def _needs_sessions(space: Space) -> bool:
    return getattr(space.localizer, "needs_sessions", False)


def _closest(texts: Sequence[str], vectors: Tensor, space: Space) -> Tensor:
    """Catalogue ids int64 (m,) of the items most similar to answers (for f = 0); 0 for an empty answer."""
    cosine, row = top(vectors, space.items, 1)
    given = torch.tensor([bool(text.strip()) for text in texts], dtype=torch.bool)
    return (row[:, 0] + 1) * (given & cosine[:, 0].isfinite())
