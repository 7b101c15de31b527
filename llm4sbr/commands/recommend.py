"""`llm4sbr recommend`: recommendations for live sessions, from a run or an exported model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm4sbr.commands.options import (
    common,
    filter_option,
    items_of,
    json_text,
    print_json,
    refitted_option,
    say,
)
from llm4sbr.errors import InputError

if TYPE_CHECKING:
    from llm4sbr.serving.exported import ExportedRecommender
    from llm4sbr.serving.recommend import Recommender
    from llm4sbr.serving.recommendation import Recommendation


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_OR_EXPORT")
@click.option(
    "--session",
    help="Titles or ids, oldest first, separated by commas, | or lines; - reads sessions from standard "
    "input, one per line, and prints a line of JSON for each.",
)
@click.option(
    "--in",
    "source_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A whole set instead: .jsonl, .csv or .parquet with a column session; - reads JSON lines.",
)
@click.option(
    "--out",
    "target_file",
    type=click.Path(path_type=Path),
    default=Path("-"),
    metavar="FILE",
    help="Where the lists of a set go, .jsonl, .csv or .parquet.  [standard output]",
)
@click.option(
    "--fields",
    metavar="NAMES",
    help="What is written of a set: row, key, id, title, score, session, left_out, attributes, passing, "
    "notes, error, and columns of the sessions' file.  [row,key,score,left_out,notes,error]",
)
@click.option("--engine", default="local", show_default=True, help="Where a set is computed: local, ray.")
@click.option("-k", type=int, help="Length of the list.  [10, or what was exported]")
@click.option(
    "--variant",
    help="Which trained model, or slist, item-knn ...; by default the best on validation.",
)
@click.option("--from", "exported", metavar="NAME", help="Use RUN/export/NAME, such as onnx, not PyTorch.")
@click.option(
    "--source",
    type=click.Choice(["auto", "cache", "items", "predictor", "nearest", "none"]),
    default="auto",
    show_default=True,
    help="Where the intents come from: the answers to exactly this session, those about its last item, the "
    "model's prediction, the nearest known session's answers, or none; auto takes the first of these that "
    "is available.",
)
@click.option(
    "--include-seen/--exclude-seen",
    default=None,
    help="Whether items of the session itself may be recommended; by default as in training and tests.",
)
@click.option(
    "--unknown",
    type=click.Choice(["skip", "fail"]),
    default="skip",
    show_default=True,
    help="What to do with items that the model does not know, such as new ones: leave them out, or fail.",
)
@click.option(
    "--only",
    metavar="KEYS",
    help="Recommend none but these items: keys, comma-separated, or @FILE with a key per line.",
)
@click.option("--without", metavar="KEYS", help="Recommend none of these items, given in the same way.")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Recommend only items for which it holds, such as 'price <= 30; category in Lamps, Rugs', a named "
    "filter or 'not' and one of both; can be repeated.",
)
@filter_option
@click.option("--attributes", is_flag=True, help="Also tell the attributes of the items.")
@refitted_option
@common
def recommend(
    folder: Path,
    session: str | None,
    source_file: Path | None,
    target_file: Path,
    fields: str | None,
    engine: str,
    k: int | None,
    variant: str | None,
    exported: str | None,
    source: str,
    include_seen: bool | None,
    unknown: str,
    only: str | None,
    without: str | None,
    where: tuple[str, ...],
    filters: dict[str, Path],
    attributes: bool,
    refitted: bool | None,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Recommend for live sessions, or for a whole set of them.

    RUN_OR_EXPORT is a run folder, or the folder of an exported model, which needs no run.
    """
    if (session is None) == (source_file is None):
        raise InputError("give either --session, or --in with a file of sessions")
    exclude_seen = None if include_seen is None else not include_seen
    options: dict[str, Any] = {"k": k, "exclude_seen": exclude_seen, "source": source, "unknown": unknown}
    options |= {"only": items_of("only", only), "without": items_of("without", without) or ()}
    options |= {"where": where, "attributes": attributes}
    load = partial(_load, folder, variant, exported, refitted, filters)
    if source_file is not None:
        if attributes:
            from llm4sbr.serving.sets.fields import ATTRIBUTES, DEFAULT

            fields = f"{','.join(DEFAULT) if fields is None else fields},{ATTRIBUTES}"
        wanted = (source_file, target_file, fields, options, engine)
        _whole_set(wanted, load, as_json=as_json, quiet=quiet)
        return
    assert session is not None
    recommender = load(quiet=quiet)
    recommender.check(k, source)
    answer: Callable[..., Recommendation] = partial(recommender.recommend, **options)
    if session == "-":
        _stream(answer)
    elif as_json:
        print_json(answer(session).as_dict())
    else:
        from llm4sbr.report.terminal.recommendation import show_recommendation

        show_recommendation(answer(session), recommender.titles.repeated)


def _whole_set(given: tuple[Any, ...], load: Callable[..., Any], *, as_json: bool, quiet: bool) -> None:
    """Answer a set of sessions; exit with 2 if some of its rows have no list."""
    from llm4sbr.progress import Progress
    from llm4sbr.serving.sets.read import STANDARD
    from llm4sbr.serving.sets.work import SessionSet, recommend_set

    wanted = SessionSet(*given)
    found = recommend_set(wanted, partial(load, quiet=True), Progress(quiet=quiet))
    if as_json and wanted.target != STANDARD:
        print_json(found)
    if found["broken"]:
        raise click.exceptions.Exit(2)


def _load(
    folder: Path,
    variant: str | None,
    exported: str | None,
    refitted: bool | None,
    filters: dict[str, Path],
    *,
    quiet: bool,
) -> Recommender | ExportedRecommender:
    """The model, with the named filters that are given."""
    found = _opened(folder, variant, exported, refitted, quiet=quiet)
    for name, path in filters.items():
        unknown = found.filters.define(name, path)
        if unknown and not quiet:
            say(f"filter {name}: no item has {unknown:,} of the keys in {path}", err=True)
    return found


def _opened(
    folder: Path, variant: str | None, exported: str | None, refitted: bool | None, *, quiet: bool
) -> Recommender | ExportedRecommender:
    from llm4sbr.serving.exported import ExportedRecommender, is_artefact

    if exported is None and not is_artefact(folder):
        from llm4sbr.serving.recommend import Recommender

        found = Recommender.load(folder, variant=variant, refitted=refitted)
        if not quiet:
            from llm4sbr.training.trained import reason

            say(reason(folder, found.trained), err=True)
        if found.trained.refitted and refitted is None:
            say("refitted on all sessions; --no-refitted takes the model that was tested", err=True)
        return found
    if refitted is not None:
        raise InputError("--refitted: an exported model is one or the other already; leave it out")
    if variant is not None:
        raise InputError("--variant: an exported model is one already; leave it out, or export that variant")
    if exported is None:
        return ExportedRecommender.load(folder)
    return ExportedRecommender.load(folder / "export" / exported, run=folder)


def _stream(answer: Callable[..., Recommendation]) -> None:
    """Answer every line of standard input as it comes; at the end, exit with 2 if a line was invalid."""
    from llm4sbr.serving.stream import replies

    if sys.stdin is None:
        raise InputError("--session -: standard input is closed")
    good = True
    for reply in replies(sys.stdin.buffer, answer):
        click.echo(json_text(reply.value))  # echo flushes
        good = good and reply.good
    if not good:
        raise click.exceptions.Exit(2)
