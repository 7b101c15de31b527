"""Stage `localize`: ties the answers to items of the catalogue and stores them as intents, by sample.

`localize.item_text` chooses the items' texts; encoder and localizer get a catalogue with these texts as
titles. All sources of answers share one cache of encoded texts, so common texts are encoded once; the
catalogue's vectors are cached on disk for other runs (`encoders/disk_cache.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from llm4sbr import folders, registry, stamps, store
from llm4sbr.config import Config
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError, DamagedError
from llm4sbr.freshness import LLM, part_stamp
from llm4sbr.intents.texts import ITEMS, Located
from llm4sbr.localization.answers import answers_of, distinct_lines, fingerprint_of, sources_of, unit_of
from llm4sbr.localization.source import ABOUT, finish, localize_source
from llm4sbr.localization.space import answer_texts, item_texts, open_space, try_out
from llm4sbr.progress import Progress
from llm4sbr.protocols import Engine
from llm4sbr.stamps import Attempt, Stamp

ANSWERS = ("answers", "both")
"""Values of `localize.item_text` with which each source has vectors of the items of its own."""

SUMMARY = "localize.json"
"""File with the summary of all sources."""


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
    sources = sources_of(run / "infer")
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
            try:
                summary: dict[str, Any] = store.read_json(place / SUMMARY)
            except DamagedError:
                continue
            if store.file_sha256(place / ITEMS) == summary["files"][ITEMS]:
                attempt.begin()
                folders.link_file(place / ITEMS, out / ITEMS)
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
    catalogue = item_texts(prepared.catalogue, config.localize.item_text)
    distinct = distinct_lines(catalogue.titles, [run / "infer" / name for name in missing], names)
    engine: Engine = registry.create("engines", config.engine.name, **config.engine.options)
    with progress.task("localize", distinct, unit="texts") as advance, closing(engine):
        unit = unit_of(run / "infer")
        if config.localize.item_text in ANSWERS and unit != "item":
            raise ConfigError(
                f"localize.item_text = {config.localize.item_text!r}: these perspectives ask about sessions, "
                "not items; choose others, such as --perspective audience"
            )
        space = open_space(config, prepared, catalogue, engine, advance, progress.note, unit=unit)
        for name in list(missing)[:1]:
            try_out(answers_of(run / "infer" / name, names), names, space)
        attempt.begin()
        store.write_tensors(out / ITEMS, {"items": space.items})
        first: Located | None = None
        own, kind = space, config.localize.item_text
        for name, stamp in missing.items():
            stamps.begin_part(out / name, stamp)
            space.about["prompts"] = fingerprint_of(run / "infer" / name)
            table = answers_of(run / "infer" / name, names)
            if kind in ANSWERS:
                own, silent = answer_texts(space, table, names, kind)
                first = None  # what a text means is another thing among other items' texts
                if silent and name == LLM:
                    text = f"{silent:,} of {len(own.items):,} items have no answer; their titles stand in"
                    progress.note(f"localize: {text}")
            found = localize_source(out / name, table, names, own, first)
            first = first or found  # `shuffled` has the LLM's texts in another order
            if kind in ANSWERS:
                store.write_tensors(out / name / ITEMS, {"items": own.items})
            finish(out / name, own)
    files = [ITEMS, *(f"{path.parent.name}/{ITEMS}" for path in sorted(out.glob(f"*/{ITEMS}")))]
    hashes = {name: store.file_sha256(out / name) for name in files}
    summary = {"files": hashes, "llm": config.infer.llm, **space.about}
    facts = getattr(space.localizer, "facts", {})
    if facts:
        summary["facts"] = facts
        progress.note(f"localize: {', '.join(f'{name} {value}' for name, value in facts.items())}")
    return summary
