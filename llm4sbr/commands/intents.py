"""`llm4sbr intents`: shows and verifies the stored intents of a run."""

from __future__ import annotations

from pathlib import Path

import click

from llm4sbr.commands.options import common, print_json
from llm4sbr.errors import InputError

RUN = click.argument("run", type=click.Path(path_type=Path))


@click.group()
def intents() -> None:
    """Stored intents: show them, count them, and verify their files."""


@intents.command()
@RUN
@click.option("--source", default="llm", show_default=True, metavar="NAME", help="Whose intents.")
@click.option("--session", metavar="TEXT", help="Only this session: titles or ids, oldest first.")
@click.option("--key", type=int, help="Only the sample with this key.")
@click.option(
    "-n", "--count", type=click.IntRange(min=1), default=3, show_default=True, help="Number of sessions."
)
@common
def show(
    run: Path,
    source: str,
    session: str | None,
    key: int | None,
    count: int,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Show sessions with the items that their answers were tied to, and the items' weights."""
    if session is not None and key is not None:
        raise InputError("intents show: give --session or --key, not both")
    from llm4sbr.serving import inspect

    found = inspect.show(run, source=source, session=session, key=key, count=count)
    if as_json:
        print_json(found)
    else:
        from llm4sbr.report.terminal.intents import show_sessions

        show_sessions(found)


@intents.command()
@RUN
@common
def verify(run: Path, as_json: bool, quiet: bool, debug: bool) -> None:
    """Read every byte and compare it with the manifest: flipped bits, missing shards, another catalogue.

    Opening intents checks file sizes only; train and evaluate run this verification themselves.
    """
    from llm4sbr.serving import inspect

    found = inspect.verify(run)
    if as_json:
        print_json(found)
    else:
        from llm4sbr.report.terminal.intents import show_verified

        show_verified(found)


@intents.command()
@RUN
@common
def stats(run: Path, as_json: bool, quiet: bool, debug: bool) -> None:
    """Count rows, distinct intents and bytes, and the share of the samples that have intents."""
    from llm4sbr.serving import inspect

    found = inspect.stats(run)
    if as_json:
        print_json(found)
    else:
        from llm4sbr.report.terminal.intents import show_stats

        show_stats(found)
