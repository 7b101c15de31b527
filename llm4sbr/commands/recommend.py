"""`llm4sbr recommend`: recommendations for live sessions, from a run or an exported model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm4sbr.commands.options import common, json_text, print_json, refitted_option, say
from llm4sbr.errors import InputError

if TYPE_CHECKING:
    from llm4sbr.serving.exported import ExportedRecommender
    from llm4sbr.serving.recommend import Recommender
    from llm4sbr.serving.recommendation import Recommendation


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_OR_EXPORT")
@click.option(
    "--session",
    required=True,
    help="Titles or ids, oldest first, separated by commas, | or lines; - reads sessions from standard "
    "input, one per line, and prints a line of JSON for each.",
)
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
@refitted_option
@common
def recommend(
    folder: Path,
    session: str,
    k: int | None,
    variant: str | None,
    exported: str | None,
    source: str,
    include_seen: bool | None,
    unknown: str,
    refitted: bool | None,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Recommend for live sessions.

    RUN_OR_EXPORT is a run folder, or the folder of an exported model, which needs no run.
    """
    recommender = _load(folder, variant, exported, refitted, quiet=quiet)
    recommender.check(k, source)
    exclude_seen = None if include_seen is None else not include_seen
    answer = partial(recommender.recommend, k=k, exclude_seen=exclude_seen, source=source, unknown=unknown)
    if session == "-":
        _stream(answer)
    elif as_json:
        print_json(answer(session).as_dict())
    else:
        from llm4sbr.report.terminal.recommendation import show_recommendation

        show_recommendation(answer(session))


def _load(
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
