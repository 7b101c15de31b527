"""`llm4sbr tune`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from llm4sbr.commands.options import common, print_json, say
from llm4sbr.errors import ConfigError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--trials", type=click.IntRange(1), default=40, show_default=True, help="Total trials.")
@click.option("--time", "limit", metavar="TIME", help="Total time: 90s, 30m, 2h.  [no limit]")
@click.option(
    "--workers", type=click.IntRange(1), help="Models trained in parallel.  [one per core, at most 4]"
)
@click.option(
    "--space",
    "spaces",
    multiple=True,
    metavar="KEY=VALUES",
    help="Search a setting of train: KEY=A,B, KEY=LOW..HIGH or KEY=LOW..HIGH:log; KEY= does not search it.",
)
@click.option("--variant", help="The variant to tune.  [llm, else item-item, else plain]")
@click.option("--engine", default="local", show_default=True, help="Where models are trained: local, ray.")
@click.option("--keep", is_flag=True, help="Write the best settings into RUN's config.toml.")
@common
def tune(
    run: Path,
    trials: int,
    limit: str | None,
    workers: int | None,
    spaces: tuple[str, ...],
    variant: str | None,
    engine: str,
    keep: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Search for better settings of RUN's model on its validation samples; test samples are never used.

    Backbone and fuser declare which of their options are searched, and in which range. The same command
    resumes an interrupted search.
    """
    from llm4sbr.api import tune as tune_run

    content = tune_run(
        run,
        trials=trials,
        seconds=_seconds(limit),
        workers=workers,
        space=spaces,
        variant=variant,
        keep=keep,
        engine=engine,
        quiet=quiet,
    )
    if as_json:
        print_json(content)
        return
    from llm4sbr.report.terminal.tuning import show_tuning

    show_tuning(content)
    say(f"\nReport: {content['report']}")
    best, own = content["best"], content["own"]
    if not keep and (own is None or best["value"] > own["value"]):
        given = [("--time", limit), *(("--space", space) for space in spaces), ("--variant", variant)]
        same = [word for name, value in given if value for word in (name, value)]
        command = shlex.join(["llm4sbr", "tune", str(run), "--trials", str(trials), *same, "--keep"])
        say(f"Next: {command}, which saves the best in the run")


def _seconds(text: str | None) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip()) if text else None
    if text and (not found or not float(found[1])):
        raise ConfigError(f"--time {text}: expected a time such as 90s, 30m or 2h")
    return float(found[1]) * UNITS[found[2]] if found else None
