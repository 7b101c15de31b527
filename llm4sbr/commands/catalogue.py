"""`llm4sbr catalogue`: items that come and go without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm4sbr.commands.options import common, print_json, say

TARGET = click.argument("target", metavar="RUN_OR_EXPORT", type=click.Path(path_type=Path))


@click.group()
def catalogue() -> None:
    """Items that come into a model's catalogue, or leave it, without training."""


@catalogue.command()
@TARGET
@click.argument("items", type=click.Path(path_type=Path))
@click.option("--variant", help="Which trained model of a run.  [the one that export takes]")
@common
def add(target: Path, items: Path, variant: str | None, as_json: bool, quiet: bool, debug: bool) -> None:
    """Add ITEMS: to a run a CSV with item, title and attributes; to an export the file that this made.

    New items are scored by their titles. RUN/catalogue/added.safetensors has all of them; the run's exports
    of the same model get them at once, and servers take them up.
    """
    from llm4sbr.api import add_items

    _told(add_items(target, items, variant=variant, quiet=quiet), as_json)


@catalogue.command()
@TARGET
@click.argument("keys", nargs=-1, required=True)
@common
def remove(target: Path, keys: tuple[str, ...], as_json: bool, quiet: bool, debug: bool) -> None:
    """Take the items with these KEYS out of every list; add puts them back."""
    from llm4sbr.api import remove_items

    _told(remove_items(target, keys), as_json)


@catalogue.command("list")
@TARGET
@common
def list_(target: Path, as_json: bool, quiet: bool, debug: bool) -> None:
    """Show the items that were added or taken out."""
    from llm4sbr.api import changed_items

    _told(changed_items(target), as_json)


def _told(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for one in found["added"]:
        say(f"+ {one['key']}  {one['title']}")
    for key in found["removed"]:
        say(f"- {key}")
    say(f"{len(found['added']):,} added, {len(found['removed']):,} taken out")
    for folder in found["exports"]:
        say(f"in {folder}")


def show_cold(run: Path, as_json: bool) -> None:
    """Test a run on the items that were held out, and print the result."""
    from llm4sbr.stages.cold import evaluate_cold

    found = evaluate_cold(run)
    if as_json:
        print_json(found)
        return
    say(f"HR@{found['k']} on {found['samples_on_new']:,} clicks on {found['new_items']:,} items held out:")
    for name, value in found["new"].items():
        say(f"  {name:28}{'-' if value is None else f'{value:7.2%}'}")
    others = found["others"]
    say(f"on {found['samples_on_others']:,} clicks on other items ({found['model']}):")
    say(f"  without new items           {others['without']:7.2%}")
    say(f"  with new items              {others['with new items']:7.2%}")
