"""`llm4sbr pack`, `unpack`, `push` and `pull`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from llm4sbr.commands.options import Command, common, print_json, say


def sized(what: str) -> Callable[[Command], Command]:
    """The option that bounds what is taken in."""
    return click.option(
        "--max-size",
        type=click.FloatRange(0, min_open=True),
        default=64.0,
        show_default=True,
        metavar="GIB",
        help=f"Refuse {what} that has more.",
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_OR_EXPORT")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.tar")
@common
def pack(folder: Path, out: Path, as_json: bool, quiet: bool, debug: bool) -> None:
    """Write a run or an export into one file that opens anywhere.

    The same content gives the same bytes. Paths of this machine in settings and stage records become their
    last part; a file with a key in it is refused.
    """
    from llm4sbr.packing import archive

    _show(archive.pack(folder, out), out, as_json, f"Open it with: llm4sbr unpack {out.name}")


@click.command()
@click.argument("archive", type=click.Path(path_type=Path), metavar="FILE.tar")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@sized("an archive")
@common
def unpack(
    archive: Path, folder: Path | None, max_size: float, as_json: bool, quiet: bool, debug: bool
) -> None:
    """Open what pack wrote, as a new FOLDER; by default as the packed folder was called.

    Every file is checked. An archive with anything but the regular files that it lists is refused whole.
    """
    from llm4sbr.packing.archive import unpack as open_archive

    out, content = open_archive(archive, folder, most=max_size)
    use = f"llm4sbr {'recommend' if content['kind'] == 'run' else 'serve'} {out}"
    _show(content, out, as_json, f"Next: {use}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_OR_EXPORT")
@click.argument("name", metavar="hub:NAME")
@click.option("--private/--public", default=True, show_default=True, help="Of a repository that is new.")
@click.option("--message", metavar="TEXT", default="Export of llm4sbr", help="Of the commit.")
@common
def push(
    folder: Path, name: str, private: bool, message: str, as_json: bool, quiet: bool, debug: bool
) -> None:
    """Upload an export to a model hub, with its model card as README.md.

    NAME is USER/MODEL on the Hugging Face hub, or on the server that HF_ENDPOINT names. The key is that of
    `hf auth login`, or HF_TOKEN.
    """
    from llm4sbr.packing import hub

    found = hub.push(folder, name, private=private, message=message)
    if as_json:
        print_json(found)
    else:
        say(f"{found['url']}: {len(found['files'])} files\nGet it with: llm4sbr pull {name} FOLDER")


@click.command()
@click.argument("name", metavar="hub:NAME")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--revision", metavar="REVISION", help="A branch, tag or commit.  [main]")
@sized("a model")
@common
def pull(
    name: str,
    folder: Path,
    revision: str | None,
    max_size: float,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Download an export from a model hub into a new FOLDER, and check it.

    Only the files that its record lists are downloaded; nothing in them is code that runs.
    """
    from llm4sbr.packing import hub

    found = hub.pull(name, folder, revision=revision, most=max_size)
    if as_json:
        print_json(found)
    else:
        say(f"{folder}: {len(found['files'])} files of commit {found['commit'][:12]}")
        say(f"Next: llm4sbr serve {folder}")


def _show(content: dict[str, Any], out: Path, as_json: bool, hint: str) -> None:
    size = sum(size for size, _ in content["files"].values())
    if as_json:
        print_json({"path": str(out), "bytes": size} | content)
    else:
        say(
            f"{out}: {content['kind']} {content['name']}, {len(content['files'])} files, {size / 1e6:,.1f} MB"
        )
        say(hint)
