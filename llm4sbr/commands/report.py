"""`llm4sbr report`."""

from __future__ import annotations

from pathlib import Path

import click

from llm4sbr.commands.options import common, print_json, say


@click.command()
@click.argument("folder", metavar="RUN_OR_EXPERIMENT", type=click.Path(path_type=Path))
@common
def report(folder: Path, as_json: bool, quiet: bool, debug: bool) -> None:
    """Write report.html: tables, figures, and sessions with their answers, in one self-contained file.

    A run writes it at its end; this command writes it again, also for an unfinished run.
    """
    from llm4sbr.report.page.write import write

    path = write(folder)
    print_json({"report": str(path)}) if as_json else say(f"Report: {path}")
