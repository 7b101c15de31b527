"""`llm4sbr refit`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from llm4sbr.commands.options import common, print_json, say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--variant", help="Which trained model; by default the one with the LLM's intents.")
@click.option("--seed", type=int, metavar="N", help="Which seed.  [the best on validation]")
@click.option("--force", is_flag=True, help="Train again even if it is there.")
@common
def refit(
    run: Path,
    variant: str | None,
    seed: int | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Train the chosen model once more, on all sessions of RUN, for what is served.

    As many epochs as its best one was, validation and test sessions included; the table does not change.
    export, recommend and serve take the refitted model from then on, until RUN is trained again.
    """
    from llm4sbr.api import refit as refit_run

    record = refit_run(run, variant=variant, seed=seed, force=force, quiet=quiet)
    if as_json:
        print_json(record)
    else:
        facts = record["facts"]
        say(
            f"{facts['variant']}, seed {facts['seed']}, refitted on {facts['samples']:,} samples, "
            f"{facts['epochs']} epochs; it has no test of its own"
        )
