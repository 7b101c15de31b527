"""`llm4sbr answers`: statistics of the answer cache, and sharing it with others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm4sbr.commands.options import common, print_json, say
from llm4sbr.errors import InputError, StoreError

if TYPE_CHECKING:
    from llm4sbr.asking.cache import AnswerCache

UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@click.group()
@click.option("--cache", type=click.Path(path_type=Path), help="The answer cache.  [the user's own]")
@click.pass_context
def answers(context: click.Context, cache: Path | None) -> None:
    """The answer cache: answers of LLMs, asked once and kept for every run."""
    context.obj = cache


def _open(path: Path | None, *, new: bool = False) -> AnswerCache:
    from llm4sbr import store
    from llm4sbr.asking.cache import AnswerCache

    path = path or store.cache_dir() / "answers.sqlite"
    if not new and not path.exists():
        raise StoreError(f"{path}: no answer cache there yet; llm4sbr infer makes it")
    return AnswerCache.open(path)


@answers.command()
@common
@click.pass_obj
def stats(cache: Path | None, as_json: bool, quiet: bool, debug: bool) -> None:
    """Show number, cost and dates of the answers of each LLM."""
    with _open(cache) as opened:
        found, path, size = opened.stats(), opened.path, opened.path.stat().st_size
    if as_json:
        print_json({"cache": str(path), "bytes": size, "llms": [one._asdict() for one in found]})
    else:
        from llm4sbr.report.terminal.stages import show_answers

        show_answers(path, size, found)


@answers.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--llm", default="", metavar="TEXT", help="Only LLMs whose fingerprint contains this.  [all]")
@common
@click.pass_obj
def export_(cache: Path | None, file: Path, llm: str, as_json: bool, quiet: bool, debug: bool) -> None:
    """Write the answers to FILE, one JSON object per line; compressed if the name ends in .gz."""
    from llm4sbr.asking.exchange import export_answers

    with _open(cache) as opened:
        count = export_answers(opened, file, llm=llm)
    print_json({"exported": count}) if as_json else say(f"{file}: {count:,} answers")


@answers.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@common
@click.pass_obj
def import_(cache: Path | None, file: Path, as_json: bool, quiet: bool, debug: bool) -> None:
    """Add the answers of FILE; answers that the cache already has are kept."""
    from llm4sbr.asking.exchange import import_answers

    with _open(cache, new=True) as opened:
        count, new = import_answers(opened, file)
    if as_json:
        print_json({"read": count, "new": new})
    else:
        say(f"{file}: {count:,} answers, {new:,} of them new")


@answers.command()
@click.option("--llm", default="", metavar="TEXT", help="Only LLMs whose fingerprint contains this.")
@click.option("--older-than", metavar="TIME", help="Added longer ago than 12h, 90d, 8w.")
@click.option("--all", "every", is_flag=True, help="Everything.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@common
@click.pass_obj
def prune(
    cache: Path | None,
    llm: str,
    older_than: str | None,
    every: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Delete answers and free the disk space. Deleted answers would have to be asked again."""
    if every == bool(llm or older_than):
        raise InputError("answers prune: say what to drop: --llm, --older-than, or --all")
    with _open(cache) as opened:
        count = opened.prune(llm=llm, before=_before(older_than), dry=dry_run)
    verb = "would be dropped" if dry_run else "dropped"
    print_json({"pruned": count, "dry_run": dry_run}) if as_json else say(f"{count:,} answers {verb}")


def _before(age: str | None) -> float | None:
    if age is None:
        return None
    unit = UNITS.get(age[-1:])
    if unit is None or not age[:-1].isdigit():
        raise InputError(f"--older-than {age}: expected a time such as 12h, 90d or 8w")
    return time.time() - int(age[:-1]) * unit
