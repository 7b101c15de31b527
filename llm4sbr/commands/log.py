"""`llm4sbr log`: parse, call, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from llm4sbr.commands.options import common, print_json, say
from llm4sbr.printable import printable


def check_loggers(names: Sequence[str]) -> None:
    """Refuse what cannot be told, before the hours that a run may take."""
    from llm4sbr import registry

    for name in names:
        registry.create("loggers", name)


def tell_loggers(run: Path, names: Sequence[str]) -> None:
    """Tell loggers of a finished run; where to see it goes to standard error."""
    if not names:
        return
    from llm4sbr.packing.logged import log as log_run

    for name in names:
        click.echo(printable(f"{name}: see it with: {log_run(run, name, {})}"), err=True)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "name", required=True, metavar="NAME", help="tensorboard, mlflow ...")
@click.option("--option", "given", multiple=True, metavar="NAME=VALUE", help="An option of the logger.")
@click.option("--artefacts/--no-artefacts", default=True, show_default=True, help="Also report and exports.")
@common
def log(
    run: Path,
    name: str,
    given: tuple[str, ...],
    artefacts: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Tell a logger what a trained RUN found: settings, training curves, metrics, artefacts.

    Loggers are components: llm4sbr plugins list loggers. A run that is there already is replaced. Settings
    name data and models by the last part of their path, and a key never reaches a log.
    """
    from llm4sbr.config import parse_set
    from llm4sbr.packing.logged import log as log_run

    place = log_run(run, name, parse_set(given), artefacts=artefacts)
    if as_json:
        print_json({"logger": name, "see": place})
    else:
        say(f"See it with: {place}")
