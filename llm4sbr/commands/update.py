"""`llm4sbr update`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from llm4sbr.commands.options import chosen_settings, common, print_json, say, sources

WORSE = 4
"""Exit code: the new model is worse, and the old one stays."""

UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The log as it is now.  [the run's data.path]")
@click.option("--llm-budget", metavar="AMOUNT", help="Ask at most 20000 prompts, or for 30m.  [the run's]")
@click.option(
    "--serve",
    "served",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The folder that a server watches.  [RUN/export/onnx]",
)
@click.option(
    "--refit", "refitted", is_flag=True, help="Hand over a refit on all sessions, the newest included."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    metavar="SHARE",
    help="How much lower the new model's HR@K and MRR@K may be.",
)
@click.option(
    "--newest",
    default="1d",
    show_default=True,
    metavar="TIME",
    help="Compare on sessions since: 1d, 12h, 90m.",
)
@sources
@common
def update(
    run: Path,
    data: Path | None,
    llm_budget: str | None,
    served: Path | None,
    refitted: bool,
    tolerance: float,
    newest: str,
    file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Train RUN again on its log as it is now, and hand the model over if it is not worse.

    The new models start from the present ones. What would be served, old and new, is compared on the newest
    test samples; if the new model is worse, the old one stays, in RUN and where a server looks, and the exit
    code is 4. The run before is kept as RUN.before, a refused one as RUN.next.
    """
    from llm4sbr.api import update as update_run

    chosen = chosen_settings(file, assignments, {"data__path": data, "infer__budget": llm_budget})
    found = update_run(
        run,
        serve=served,
        refitted=refitted,
        tolerance=tolerance,
        newest=_seconds(newest),
        quiet=quiet,
        **chosen,
    )
    if as_json:
        print_json(found)
    else:
        say(found["gate"]["sentence"])
        ended = f"handed over: {found['served']}" if found["handed_over"] else f"kept; see {found['refused']}"
        say(f"{ended}  ({found['seconds']:.0f} s)")
    if not found["handed_over"]:
        click.get_current_context().exit(WORSE)


def _seconds(text: str) -> float:
    try:
        found = float(text[:-1]) * UNITS[text[-1:]]
    except (KeyError, ValueError):
        found = 0.0
    if not 0 < found < float("inf"):
        raise click.BadParameter(f"{text!r} is no time such as 1d, 12h or 90m", param_hint="--newest")
    return found
